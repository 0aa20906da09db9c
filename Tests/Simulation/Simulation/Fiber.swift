import CSimulation

/// A virtual thread. Its code is that of the library and of the scenario; it runs until it passes a point where the
/// world lets another one run.
final class Fiber {
    enum State { case runnable, blocked, done }

    let context: OpaquePointer
    var name = ""
    /// The kernel's number of the thread; never reused within a run.
    var identifier: Int32 = 0
    var state = State.done
    var task: (() -> Void)?

    // MARK: What the kernel knows of it

    /// Processor time used.
    var time: Int64 = 0
    /// While blocked: whether it uses a processor all the same, since then. A thread that computes.
    var computesSince: Int64?
    /// Counts the times it blocked, so that an old timer does not wake it from a new sleep.
    var sleep = 0
    var isTimedOut = false
    /// The futex that it sleeps on.
    var word: UnsafeRawPointer?
    /// The ring that it sleeps in, and for how many completions.
    var ring: VirtualRing?
    var minimum: UInt32 = 0
    var isInEpoll = false
    /// Completions that are posted when it next enters the kernel, or is interrupted (IORING_SETUP_COOP_TASKRUN).
    var taskWork: [(ring: VirtualRing, completion: VirtualCompletion)] = []
    /// Whether it has executed anything since it last blocked.
    var hasRun = true
    var threadEnd: (@convention(c) (UnsafeMutableRawPointer?) -> Void)?

    // MARK: What the scenario knows of it

    /// Its number in the scenario; -1 for the others.
    var number = -1
    var call = Call.none
    /// Where its dequeue puts packets, zeroed before, and for how many there is room.
    var room: UnsafeMutableRawPointer?
    var capacity = 0
    /// A packet that it may have passed when it took completions for itself.
    var older: Int?

    /// Which call of the library it is in.
    enum Call: Equatable {
        case none
        case dequeue(Int)
        /// It enters or leaves a region in which it blocks, or exits.
        case place
    }

    init(main: Void) { context = sim_fiber_main() }

    init() {
        let box = Box()
        context = sim_fiber_create(
            { argument in
                let box = Unmanaged<Box>.fromOpaque(argument!).takeUnretainedValue()
                while true { box.fiber!.live() }
            }, Unmanaged.passRetained(box).toOpaque())
        box.fiber = self
    }

    private final class Box { unowned var fiber: Fiber! }

    private func live() {
        task!()
        task = nil
        world.fiberEnds()
    }

    /// Whether the kernel would say that it sleeps.
    var sleeps: Bool { state == .blocked && computesSince == nil }
}
