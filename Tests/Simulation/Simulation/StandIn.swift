import CIOCPSupport
import CSimulation
import Glibc

@testable import IOUring

/// Puts the world in the place of the system.
func installStandIn() {
    let standIn = UnsafeMutablePointer<iocp_stand_in>.allocate(capacity: 1)
    standIn.initialize(
        to: iocp_stand_in(
            tls_set: { value, destructor in
                sim_tls_set(value)
                world.current.threadEnd = destructor
            },
            futex_wait: { word, expected, timeout in
                world.kernel.futexWait(word!, expected, timeout)
            },
            futex_wake: { word, count in world.kernel.futexWake(word!, count) },
            now_ns: { world.now },
            membarrier: { world.kernel.membarrier() },
            yield: { world.yield() },
            gettid: { world.current.identifier },
            thread_time_ns: { identifier in
                guard let fiber = world.fiber(identifier) else { return -1 }
                return fiber.time + (fiber.computesSince.map { world.now - $0 } ?? 0)
            },
            thread_state: { identifier in
                guard let fiber = world.fiber(identifier) else { return 0 }
                return CChar(UInt8(ascii: fiber.sleeps ? "S" : "R"))
            },
            epoll_create: { 7 },
            epoll_set: { _, _, descriptor, isArmed, isOnce, identifier in
                world.kernel.epollSet(descriptor, isArmed, isOnce, identifier)
                return 0
            },
            epoll_wait: { _, identifiers, capacity in world.kernel.epollWait(identifiers!, Int(capacity)) },
            timer: { Kernel.timer },
            timer_set: { _, deadline in world.kernel.setTimer(deadline == 0 ? nil : deadline) },
            eventfd: { Kernel.doorbell },
            eventfd_signal: { _ in world.kernel.ringDoorbell() },
            eventfd_clear: { _ in world.kernel.clearDoorbell() },
            start_thread: { body in
                world.spawn("observer") { body!() }
                return 0
            },
            point: { point, address in
                switch point {
                case IOCP_BEFORE_LOCK: world.point()
                case IOCP_LOCKED: world.checker?.isLocked(address!)
                case IOCP_BEFORE_UNLOCK: world.checker?.unlocks(address!)
                default: world.point()
                }
            }))
    iocp_install(standIn)
    _ = Seam.install { call in
        switch call {
        case .enter(let ring, let count, let minimum, let flags, let timeout):
            .answer(world.kernel.enter(ring, count, minimum, flags, timeout))
        case .cancel(let ring, let userData, _, _): .answer(world.kernel.cancel(ring, userData))
        case .message(let ring, let userData, let result): .answer(world.kernel.message(ring, userData, result))
        case .register: .answer(-EINVAL)
        case .setUp(let entries, let ring, let parameters): .answer(world.kernel.setUp(entries, ring, parameters))
        case .tearDown(let ring):
            .answer(world.kernel.tearDown(ring))
        }
    }
}
