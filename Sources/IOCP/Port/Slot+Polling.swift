internal import CIOCPSupport
internal import Glibc
internal import IOUring
internal import Synchronization

/// A ring whose entries a thread of the kernel's takes by itself (IORING_SETUP_SQPOLL). What is queued is published with
/// each entry, so that thread sees it at once, unless it sleeps: then somebody has to wake it.
extension Slot {
    /// Sees to it that the kernel's thread takes what is queued.
    ///
    /// - Parameter waits: until it has. What completes at once is in the ring then.
    @inline(never)
    func submitPolled(waits: Bool) -> Bool {
        // As good as one: by these the observer sees that the thread is at work.
        noteEntry()
        var vainEntries = 0
        var rounds = 0
        while true {
            let count = submitter.unsubmitted
            var flags: EnterFlags = submitter.needsEnter ? .getEvents : []
            // After what is queued was published: a full barrier is part of it.
            if count > 0, submitter.needsWakeup { flags.insert(.submissionWakeup) }
            if !flags.isEmpty {
                if submitter.overflowPending { overflows.add(1, ordering: .relaxed) }
                let result = submitter.enter(submit: count, minimumCompletions: 0, flags: flags)
                if result < 0 {
                    vainEntries += 1
                    if result == -EINTR, vainEntries < Self.mostInterruptions { continue }
                    noteRefusal(result)
                    return false
                }
            }
            if !waits || submitter.unsubmitted == 0 {
                if isRefused { noteTaken() }
                return true
            }
            rounds += 1
            // It is at work on another processor, or waits for this one.
            if rounds < 100 { iocp_cpu_relax() } else { iocp_yield() }
        }
    }
}
