//! Everything between a kept session's two ends is struck, one after the other: the job in the
//! container and its client notice nothing but time.

use std::time::Instant;

use bowline_interop::client::{Client, PATIENCE};
use bowline_interop::cluster::Cluster;
use bowline_interop::server::{Server, until};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rustix::process::Signal;

use crate::gateway::{gateway, kubeconfig, token};
use crate::kept_job::{Job, Keeper, Pace};
use crate::parts::ours;
use crate::wire::{Break, Wire};

/// What is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strike {
    /// Clients' connections are reset.
    Reset,
    /// They end in good order.
    End,
    /// Nothing passes on them any more, until the clients notice.
    Silence,
    /// Clients are stopped, and go on behind connections that are gone.
    Stop,
    /// Our gateway is killed, and comes again.
    Gateway,
    /// The API server is.
    ApiServer,
    /// The kubelet is.
    Kubelet,
}

/// All of them.
const STRIKES: [Strike; 7] = [
    Strike::Reset,
    Strike::ApiServer,
    Strike::Stop,
    Strike::End,
    Strike::Kubelet,
    Strike::Gateway,
    Strike::Silence,
];

/// How much a run is.
#[derive(Clone, Copy, Debug)]
struct Amounts {
    pace: Pace,
    /// At least so much goes each way.
    pub output: u64,
    pub input: u64,
    /// So much output comes between two strikes.
    pub between: u64,
    /// How often each is struck, at least.
    pub times: usize,
}

/// What each run has: half a minute.
const SHORT: Amounts = Amounts {
    pace: Pace { burst: 64 << 10, pause: "0.1", output_to_input: 5 },
    output: 5_000_000,
    input: 1_000_000,
    between: 200_000,
    times: 1,
};
/// What is a proof: minutes.
const LONG: Amounts = Amounts {
    pace: Pace { burst: 320 << 10, pause: "0.5", output_to_input: 5 },
    output: 100_000_000,
    input: 20_000_000,
    between: 2_750_000,
    times: 3,
};

/// How much, and how often: `BOWLINE_KEPT_ROUNDS` is how many long runs there are in place of a
/// short one.
fn runs() -> (Amounts, u64) {
    let rounds = std::env::var("BOWLINE_KEPT_ROUNDS").ok();
    rounds.map_or((SHORT, 1), |text| (LONG, text.parse().expect("it is a number")))
}

/// A cluster behind our gateway, with jobs in it.
struct Struck<'a> {
    cluster: &'a Cluster,
    way: &'a Way,
    /// Clients that nothing is between.
    direct: Vec<Client>,
    token: String,
    gateway: Option<Server>,
    /// How it is started.
    flags: Vec<String>,
    /// One for each job.
    wires: Vec<Wire>,
    jobs: Vec<Job>,
}

/// Who keeps the jobs' sessions, and for whom.
pub struct Way {
    pub keeper: Keeper,
    /// Pods, and whether the client there speaks SPDY.
    pub clients: [(&'static str, bool); 2],
    /// Without a kubelet on the way, none is struck.
    pub has_kubelet: bool,
}

/// Strikes jobs in a cluster.
pub fn run(cluster: &Cluster, way: &Way) {
    let (amounts, rounds) = runs();
    let token = token(cluster);
    let upstream = kubeconfig(cluster, "upstream", &cluster.address(), &token);
    let first = gateway(cluster, &["--upstream", &upstream]);
    let port = first.address().rsplit(':').next().unwrap().to_owned();
    let flags = ["--upstream", &upstream, "--secure-port", &port].map(ToOwned::to_owned).to_vec();
    let direct = way.clients.map(|(pod, _)| ours(&cluster.admin(), &[pod]).named(pod)).to_vec();
    let (wires, jobs) = (Vec::new(), Vec::new());
    let mut struck =
        Struck { cluster, way, direct, token, gateway: Some(first), flags, wires, jobs };
    for round in 0..rounds {
        struck.begin(round, amounts.pace);
        struck.strikes(round, amounts);
        for (job, direct) in struck.jobs.drain(..).zip(&struck.direct) {
            job.ends(direct, amounts.input);
        }
        struck.wires.clear();
    }
}

impl Struck<'_> {
    fn begin(&mut self, round: u64, pace: Pace) {
        for (number, (pod, is_spdy)) in self.way.clients.iter().enumerate() {
            let wire = Wire::to(&self.gateway.as_ref().unwrap().address());
            let (name, address) = (format!("through-{number}"), wire.address.to_string());
            let config = kubeconfig(self.cluster, &name, &address, &self.token);
            let client = ours(&config, &[pod]).named(pod);
            let client = if *is_spdy { client.over_spdy() } else { client };
            let mark = format!("{}-{number}-{round}", std::process::id());
            self.jobs.push(Job::start(&client, self.way.keeper, &mark, pace));
            self.wires.push(wire);
        }
        for job in &self.jobs {
            job.until("begun", |seen| seen.output > 0);
        }
    }

    /// Each kind so often, in an order of chance, and until enough has come.
    fn strikes(&mut self, seed: u64, amounts: Amounts) {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let has_kubelet = self.way.has_kubelet;
        let all = STRIKES.into_iter().filter(|one| has_kubelet || *one != Strike::Kubelet);
        let mut counts: Vec<(Strike, usize)> = all.map(|strike| (strike, 0)).collect();
        let begun = Instant::now();
        loop {
            let least = counts.iter().map(|(_, count)| *count).min().unwrap();
            let is_enough = self.jobs.iter().all(|job| job.seen().output >= amounts.output);
            if is_enough && least >= amounts.times {
                break;
            }
            let mut next: Vec<_> = counts.iter_mut().filter(|(_, count)| *count == least).collect();
            let chosen = chance.next_u32() as usize % next.len();
            let (strike, count) = &mut *next[chosen];
            *count += 1;
            let at = Instant::now();
            self.strike(*strike, *count);
            let before: Vec<u64> = self.jobs.iter().map(|job| job.seen().output).collect();
            let took = at.elapsed();
            for (job, before) in self.jobs.iter().zip(before) {
                job.until("going on", |seen| seen.output >= before + amounts.between);
            }
            println!("{strike:?}: {:.1} s", took.as_secs_f64());
        }
        println!("{counts:?} within {:.0} s", begun.elapsed().as_secs_f64());
    }

    /// Strikes, mends, and waits until all clients are there again.
    fn strike(&mut self, strike: Strike, number: usize) {
        let before: Vec<(u32, u32)> = self.jobs.iter().map(counts).collect();
        let lost = |job: &Job, before: (u32, u32)| {
            job.until(&format!("lost by {strike:?}"), |seen| seen.lost > before.0);
        };
        match strike {
            Strike::Reset => self.breaks(Break::Reset),
            Strike::End => self.breaks(Break::End),
            Strike::Silence => {
                self.breaks(Break::Silence);
                for (job, before) in self.jobs.iter().zip(&before) {
                    lost(job, *before);
                }
                self.wires.iter().for_each(Wire::heals);
            }
            Strike::Stop => self.stop(number),
            Strike::Gateway => self.restart_gateway(),
            Strike::ApiServer => self.restart("kube-apiserver"),
            Strike::Kubelet => self.restart("kubelet"),
        }
        for (job, before) in self.jobs.iter().zip(&before) {
            lost(job, *before);
            job.until(&format!("back after {strike:?}"), |seen| {
                seen.restored > before.1 && seen.restored == seen.lost
            });
        }
    }

    /// What happens meanwhile is a different thing each time.
    fn stop(&mut self, number: usize) {
        self.jobs.iter().for_each(|job| job.signal(Signal::STOP));
        match number % 4 {
            0 => self.restart("kube-apiserver"),
            1 => self.breaks(Break::Reset),
            2 => {
                for direct in &self.direct {
                    let what = format!("{}: its session is alone", direct.name);
                    until(&what, PATIENCE, || self.way.keeper.is_one_alone(direct));
                }
            }
            _ => self.restart_gateway(),
        }
        self.jobs.iter().for_each(|job| job.signal(Signal::CONT));
    }

    fn breaks(&self, how: Break) {
        self.wires.iter().for_each(|wire| wire.breaks(how));
    }

    fn restart(&self, name: &str) {
        self.cluster.kill(name);
        self.cluster.restart(name);
    }

    fn restart_gateway(&mut self) {
        // Killed, before another one gets its port.
        drop(self.gateway.take());
        let flags: Vec<&str> = self.flags.iter().map(|flag| &**flag).collect();
        self.gateway = Some(gateway(self.cluster, &flags));
    }
}

fn counts(job: &Job) -> (u32, u32) {
    let seen = job.seen();
    (seen.lost, seen.restored)
}
