//! Terminals beside a bulk download, through a gateway before a real API server.

use anyhow::Result;

use super::slow::echoes_beside;
use super::upstream::Front;
use crate::place::Place;
use crate::table::Row;

/// More than an API server passes while people type.
const BULK_BYTES: u64 = 4 << 30;

pub async fn echo(place: &Place, row: &mut Row) -> Result<()> {
    let front = Front::start(place).await?;
    echoes_beside(row, &front.clients, BULK_BYTES).await?;
    front.finish(row).await
}
