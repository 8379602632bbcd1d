//! Two agents with tasks in both directions, their disks, and streams that break.

use pilot_core::addr::{Address, NodeId};
use pilot_core::crypto::task::{Receipt, Side, State, Step, TaskId};
use pilot_core::crypto::{Identity, IdentityKey};
use pilot_core::rng::Rng;
use pilot_core::service::tasks::{
    About, Board, BoardLimits, Content, Contents as Kept, Keys, Party, Streams, Talk, Turn, Worked,
};
use pilot_core::time::{Duration, Instant, UnixTime};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const REGISTRY: IdentityKey = IdentityKey([7; 32]);
/// What happens to one world before its faults end.
const STEPS: u64 = 160;
/// Without faults everything has ended after so many rounds, or never does.
const ROUNDS_MAX: usize = 200;

type Contents = BTreeMap<(TaskId, About), Vec<u8>>;

/// An agent: what it knows, what its disk holds, and what the world has seen it do.
struct Agent {
    secret: [u8; 32],
    party: Party,
    board: Board<Keys>,
    disk: BTreeMap<TaskId, Vec<u8>>,
    /// How often each task was begun with.
    begun: BTreeMap<TaskId, u32>,
    /// Tasks that its user was told an id of.
    submitted: BTreeSet<TaskId>,
    /// Its streams, which end with it.
    streams: Streams,
    told: Told,
}

/// What an agent keeps beside its board, and how often it was asked for it.
#[derive(Default)]
struct Told {
    contents: Contents,
    /// Not on the disk yet.
    unsynced: Contents,
    told: BTreeSet<(TaskId, About)>,
    repeats: u64,
}

impl Kept for Told {
    fn keep(&mut self, id: TaskId, about: About, content: &[u8]) {
        self.unsynced.insert((id, about), content.to_vec());
    }

    fn get(&mut self, id: TaskId, about: About) -> Option<Vec<u8>> {
        if !self.told.insert((id, about)) {
            self.repeats += 1;
        }
        Some(self.contents.get(&(id, about)).expect("it was synced").clone())
    }
}

impl Agent {
    fn new(n: u8) -> Agent {
        let secret = [n; 32];
        let key = Identity::from_secret(secret).public();
        Agent {
            secret,
            party: Party { address: Address::backbone(NodeId(16 + u32::from(n))), key },
            board: Agent::board(secret),
            disk: BTreeMap::new(),
            begun: BTreeMap::new(),
            submitted: BTreeSet::new(),
            streams: Streams::default(),
            told: Told::default(),
        }
    }

    fn board(secret: [u8; 32]) -> Board<Keys> {
        let keys = Keys { identity: Identity::from_secret(secret), registry: REGISTRY };
        let key = keys.identity.public();
        Board::new(keys, key, REGISTRY, BoardLimits::default())
    }

    /// What was done is on the disk from now on.
    fn sync(&mut self) {
        for id in self.board.take_changed() {
            match self.board.record(id) {
                Some(record) => drop(self.disk.insert(id, record)),
                None => drop(self.disk.remove(&id)),
            }
        }
        self.told.contents.append(&mut self.told.unsynced);
    }

    fn restart(&mut self) {
        self.board = Agent::board(self.secret);
        self.told.unsynced.clear();
        self.streams = Streams::default();
        for record in self.disk.values() {
            self.board.restore(record).expect("it was written by ourselves");
        }
        assert_eq!(self.board.take_changed().count(), 0);
    }

    /// Makes a step of our own, with a text; whether it could be made. It is not synced.
    fn act(&mut self, id: TaskId, step: Step, text: &str, now: UnixTime) -> bool {
        let content = content(text);
        let is_done = self.board.act(id, step, &content, now).is_ok();
        if let Some(about) = About::of(step).filter(|_| is_done) {
            self.told.keep(id, about, &content);
        }
        is_done
    }
}

fn content(text: &str) -> Vec<u8> {
    let mut out = vec![0; 4096];
    let len = Content::of_text(text).encode(&mut out).expect("a short text");
    out.truncate(len);
    out
}

/// A stream: what is on its way in each direction, and the ends at both agents.
struct Stream {
    talks: [Talk; 2],
    numbers: [u64; 2],
    ways: [VecDeque<u8>; 2],
}

pub(crate) struct World {
    rng: Rng,
    now: UnixTime,
    agents: [Agent; 2],
    streams: Vec<Stream>,
    ids: u8,
    pub(crate) restarts: u64,
    pub(crate) cuts: u64,
}

impl World {
    pub(crate) fn new(rng: Rng) -> World {
        World {
            rng,
            now: UnixTime::from_secs(1_700_000_000),
            agents: [Agent::new(1), Agent::new(2)],
            streams: Vec::new(),
            ids: 0,
            restarts: 0,
            cuts: 0,
        }
    }

    /// Contents that were told more than once.
    pub(crate) fn repeats(&self) -> u64 {
        self.agents.iter().map(|agent| agent.told.repeats).sum()
    }

    /// The final states, each task once.
    pub(crate) fn states(&self) -> impl Iterator<Item = State> {
        let ours = |a: &Agent| a.board.tasks().filter(|t| t.side() == Side::Submitter).count();
        assert!(ours(&self.agents[0]) + ours(&self.agents[1]) <= usize::from(self.ids));
        let tasks = self.agents.iter().flat_map(|agent| agent.board.tasks());
        tasks.filter(|task| task.side() == Side::Submitter).map(|task| task.state())
    }

    fn below(&mut self, n: u64) -> u64 {
        self.rng.below(n)
    }

    pub(crate) fn run(&mut self, seed: u64) {
        for _ in 0..STEPS {
            self.step();
        }
        self.settle(seed);
        self.check(seed);
    }

    fn step(&mut self) {
        let a = self.below(2) as usize;
        match self.below(20) {
            0 if self.ids < 6 => self.submit(a),
            1..=3 => self.user(a),
            4 => {
                // A crash at any moment: also between a step and its sync.
                if self.below(2) == 0 {
                    self.user_step(a, false);
                }
                self.restart(a);
            }
            5 if !self.streams.is_empty() => {
                let at = self.below(self.streams.len() as u64) as usize;
                self.cut(at);
            }
            6 | 7 if self.streams.len() < 3 => self.open(),
            8 => {
                // Mostly moments; sometimes what ends tasks by itself.
                let seconds = [1, 1, 1, 1, 5, 5, 40, 61, 3_700][self.below(9) as usize];
                self.pass(Duration::from_secs(seconds));
            }
            _ if !self.streams.is_empty() => {
                let at = self.below(self.streams.len() as u64) as usize;
                let most = self.below(3000) as usize;
                self.deliver(at, a, most);
            }
            _ => {}
        }
    }

    fn pass(&mut self, span: Duration) {
        self.now = self.now + span;
        for a in 0..2 {
            let agent = &mut self.agents[a];
            agent.board.handle_time(self.now);
            assert!(agent.board.deadline().is_none_or(|due| due > self.now));
            agent.sync();
        }
        for at in (0..self.streams.len()).rev() {
            let now = self.instant();
            let talks = &mut self.streams[at].talks;
            talks.iter_mut().for_each(|talk| talk.handle_time(now));
            if talks.iter().any(|talk| talk.end().is_some()) {
                self.cut(at);
            }
        }
    }

    fn instant(&self) -> Instant {
        Instant::from_nanos(self.now.as_millis() * 1_000_000)
    }

    fn open(&mut self) {
        let (now, opener) = (self.instant(), self.below(2) as usize);
        let parties = [self.agents[1].party, self.agents[0].party];
        let talks = [0, 1].map(|a| Talk::new(parties[a], a == opener, now));
        let numbers = [0, 1].map(|a| self.agents[a].streams.begin(parties[a].key));
        self.streams.push(Stream { talks, numbers, ways: Default::default() });
    }

    fn cut(&mut self, at: usize) {
        let stream = self.streams.swap_remove(at);
        for a in 0..2 {
            let peer = self.agents[1 - a].party.key;
            self.agents[a].streams.end(peer, stream.numbers[a]);
        }
        self.cuts += 1;
    }

    fn restart(&mut self, a: usize) {
        while !self.streams.is_empty() {
            self.cut(0);
        }
        self.agents[a].restart();
        self.restarts += 1;
    }

    // ---- users ----

    fn submit(&mut self, a: usize) {
        self.ids += 1;
        let id = TaskId([self.ids; 16]);
        let worker = self.agents[1 - a].party;
        let description = content("work");
        let agent = &mut self.agents[a];
        agent.board.submit(id, worker, &description, self.now).expect("there is room");
        agent.told.keep(id, About::Work, &description);
        if self.rng.below(20) == 0 {
            // Its user never learns of it.
            return self.restart(a);
        }
        let agent = &mut self.agents[a];
        agent.sync();
        agent.submitted.insert(id);
    }

    fn user(&mut self, a: usize) {
        self.user_step(a, true);
    }

    /// Somebody does what may be done to some task, or tries what may not.
    fn user_step(&mut self, a: usize, is_synced: bool) {
        let ids: Vec<TaskId> = self.agents[a].board.tasks().map(|task| task.id()).collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.below(ids.len() as u64) as usize];
        let task = self.agents[a].board.get(id).expect("it was listed");
        let (side, state) = (task.side(), task.state());
        let choice = self.below(12);
        let step = match (side, state) {
            (Side::Submitter, _) if choice == 0 => Step::Cancel,
            (Side::Submitter, _) if choice == 1 => Step::Complete,
            (Side::Submitter, _) => return,
            (_, State::New) if choice < 8 => Step::Accept,
            (_, State::New) if choice == 8 => Step::Decline,
            (_, State::Accepted) if choice < 7 => Step::Start,
            (_, State::Accepted) if choice == 7 => Step::Fail,
            (_, State::Executing) if choice < 4 => Step::Progress,
            (_, State::Executing) if choice < 8 => Step::Complete,
            (_, State::Executing) if choice == 8 => Step::Fail,
            _ if choice == 9 => Step::Start,
            _ if choice == 10 => Step::Cancel,
            _ => return,
        };
        let text = if matches!(step, Step::Progress | Step::Complete | Step::Fail | Step::Decline) {
            "so it is"
        } else {
            ""
        };
        let (now, agent) = (self.now, &mut self.agents[a]);
        let is_done = agent.act(id, step, text, now);
        assert!(!is_done || step.side() == side, "{step:?}");
        if !is_synced {
            return;
        }
        agent.sync();
        if is_done && step == Step::Start {
            *agent.begun.entry(id).or_default() += 1;
        }
    }

    // ---- streams ----

    /// Bytes arrive at an agent, which does what they say, syncs, answers, and tells.
    fn deliver(&mut self, at: usize, a: usize, most: usize) {
        // A crash before or after it is on the disk, and before it is answered.
        let crash = self.below(60);
        self.take(at, a, most);
        if crash == 0 {
            return self.restart(a);
        }
        self.agents[a].sync();
        if crash == 1 {
            return self.restart(a);
        }
        let Stream { talks, ways, .. } = &mut self.streams[at];
        talks[a].release();
        ways[1 - a].extend(talks[a].output());
        talks[a].advance(usize::MAX);
    }

    fn take(&mut self, at: usize, a: usize, most: usize) {
        let (now, unix) = (self.instant(), self.now);
        let stream = &mut self.streams[at];
        let n = most.min(stream.ways[a].len()).min(stream.talks[a].room());
        let bytes: Vec<u8> = stream.ways[a].drain(..n).collect();
        let talk = &mut stream.talks[a];
        assert_eq!(talk.handle_bytes(now, &bytes), n);
        let released = talk.output().len();
        let peer = talk.peer().key;
        let Agent { board, streams, told, .. } = &mut self.agents[a];
        let is_teller = streams.is_teller(peer, stream.numbers[a]);
        let turn = Turn { now, unix, is_teller, admitted: Some(Ok(())) };
        assert_eq!(talk.work(board, told, turn), Ok(Worked::Done), "well-formed");
        assert_eq!(talk.output().len(), released, "nothing goes out before it is on the disk");
    }

    // ---- the end ----

    /// No more faults, and users that finish what they have.
    fn settle(&mut self, seed: u64) {
        while !self.streams.is_empty() {
            self.cut(0);
        }
        self.open();
        for _ in 0..ROUNDS_MAX {
            for a in 0..2 {
                self.take(0, a, usize::MAX);
                self.agents[a].sync();
                let Stream { talks, ways, .. } = &mut self.streams[0];
                talks[a].release();
                ways[1 - a].extend(talks[a].output());
                talks[a].advance(usize::MAX);
            }
            let mut is_over = self.streams[0].ways.iter().all(VecDeque::is_empty);
            for a in 0..2 {
                let (now, agent) = (self.now, &mut self.agents[a]);
                let open: Vec<_> = agent
                    .board
                    .tasks()
                    .filter(|task| !task.is_settled() || !task.is_told())
                    .map(|task| (task.id(), task.side(), task.state()))
                    .collect();
                is_over &= open.is_empty();
                for (id, side, state) in open {
                    let step = match (side, state) {
                        (Side::Worker, State::New) => Step::Accept,
                        (Side::Worker, State::Accepted) => Step::Start,
                        (Side::Worker, State::Executing) => Step::Complete,
                        _ => continue,
                    };
                    let text = if step == Step::Complete { "done" } else { "" };
                    if agent.act(id, step, text, now) && step == Step::Start {
                        *agent.begun.entry(id).or_default() += 1;
                    }
                    agent.sync();
                }
            }
            if is_over {
                return;
            }
        }
        panic!("seed {seed}: it goes on for ever");
    }

    fn check(&self, seed: u64) {
        for (a, agent) in self.agents.iter().enumerate() {
            let other = &self.agents[1 - a];
            for id in &agent.submitted {
                let ours = agent.board.get(*id).unwrap_or_else(|| panic!("seed {seed}: {id} lost"));
                assert!(ours.is_settled() && ours.refused().is_none(), "seed {seed}: {ours:?}");
                let begun = other.begun.get(id).copied().unwrap_or(0);
                assert!(begun <= 1, "seed {seed}: {id} was begun {begun} times");
                let Some(theirs) = other.board.get(*id) else {
                    // Taken back before anybody heard of it.
                    assert_eq!((ours.state(), begun), (State::Cancelled, 0), "seed {seed}");
                    continue;
                };
                assert_eq!(ours.last(), theirs.last(), "seed {seed}: two histories");
                assert_eq!(theirs.side(), Side::Worker);
                if ours.state() == State::Succeeded {
                    assert_eq!(begun, 1, "seed {seed}: done and never begun");
                    assert!(agent.board.get(*id).is_some_and(|task| task.receipt().is_some()));
                }
                let (ours, theirs) = (ours.receipt(), theirs.receipt());
                assert_eq!(ours, theirs, "seed {seed}: two receipts");
                assert!(ours.is_none_or(|receipt: &Receipt| receipt.verify(&REGISTRY).is_ok()));
            }
        }
    }
}
