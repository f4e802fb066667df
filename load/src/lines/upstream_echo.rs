//! Terminals beside a bulk download, through a gateway before a real API server, and the same
//! without the gateway: on a machine with more to do the two say together what is the gateway's.

use anyhow::Result;

use super::slow::{echoes_beside, percentile, typed_beside};
use super::upstream::Front;
use crate::client::Clients;
use crate::place::Place;
use crate::table::Row;

/// More than an API server passes while people type.
const BULK_BYTES: u64 = 4 << 30;

pub async fn echo(place: &Place, row: &mut Row) -> Result<()> {
    let front = Front::start(place).await?;
    let straight = Clients::of_cluster(place.bowline(), &front.cluster)?;
    let echoes = typed_beside(row, &straight, BULK_BYTES).await?;
    let [half, most] = [0.5, 0.99].map(|share| percentile(&echoes, share));
    row.note(format!("that was without the gateway, p50 {half:.1} ms, p99 {most:.1} ms"));
    echoes_beside(row, &front.clients, BULK_BYTES).await?;
    front.finish(row).await
}
