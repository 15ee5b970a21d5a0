//! The ring operations of virtio_bench on rust-vmm's virtio-queue. Prints {"name": ns of one item, …}.
//! As there: the driver's part is not timed, EVENT_IDX is on, and every buffer's address is checked against guest memory.

use std::hint::black_box;
use std::time::{Duration, Instant};

use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemory, GuestMemoryMmap, Permissions};

const ROUNDS: usize = 4000;

/// The median of many rounds of `timed`, in ns of one of its `items`, each on a queue made by `setup`.
fn measure<S, T>(items: u32, mut setup: S, mut timed: T) -> f64
where
    S: FnMut() -> Queue,
    T: FnMut(&mut Queue),
{
    let mut rounds: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let mut queue = setup();
            queue.set_event_idx(true);
            let start = Instant::now();
            timed(black_box(&mut queue));
            start.elapsed()
        })
        .collect();
    rounds.sort();
    rounds[ROUNDS / 2].as_nanos() as f64 / f64::from(items)
}

fn main() {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 30)]).unwrap();
    let chains = |number, length, indirect| {
        let mut driver = MockSplitQueue::new(&memory, 256);
        for _ in 0..number {
            if indirect {
                driver.add_indirect_chain(length).unwrap();
            } else {
                driver.add_chain(length).unwrap();
            }
        }
        driver.create_queue::<Queue>().unwrap()
    };
    let pop_push = |queue: &mut Queue| {
        while let Some(chain) = queue.pop_descriptor_chain(&memory) {
            let head = chain.head_index();
            for descriptor in chain {
                assert!(memory.check_range(
                    descriptor.addr(),
                    descriptor.len() as usize,
                    Permissions::Read
                ));
            }
            queue.add_used(&memory, head, 32).unwrap();
        }
        black_box(queue.needs_notification(&memory).unwrap());
    };
    let push = |queue: &mut Queue| {
        for _ in 0..128 {
            queue.add_used(&memory, 123, 0).unwrap();
        }
    };
    let figures = [
        (
            "BM_PopPush128ChainsOfOne",
            measure(128, || chains(128, 1, false), pop_push),
        ),
        (
            "BM_PopPush1ChainOf128",
            measure(1, || chains(1, 128, false), pop_push),
        ),
        (
            "BM_PopPush128IndirectChainsOfThree",
            measure(128, || chains(128, 3, true), pop_push),
        ),
        ("BM_Push128", measure(128, || chains(0, 1, false), push)),
    ];
    let lines: Vec<String> = figures
        .iter()
        .map(|(name, ns)| format!("\"virtio_bench/{name}\": {ns:.2}"))
        .collect();
    println!("{{{}}}", lines.join(", "));
}
