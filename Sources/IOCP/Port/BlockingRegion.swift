/// Runs `body`, which is expected to block: the calling thread's place in the port it works for is free meanwhile.
///
/// Another thread takes over at once, with the thread's ring, instead of when the monitor notices
/// (``CompletionPort/Options/monitorInterval``). When `body` returns the thread is one of the running again, whether the
/// limit allows it or not; nothing is handed out until the count has fallen (d10). Operations that the thread has
/// deferred enter the kernel first. Regions may be nested: the outermost counts. A thread that works for no port just
/// runs `body`.
///
/// The library's own waits, such as ``CompletionEvent/wait(timeout:)``, do this by themselves.
///
/// - Cost: a lock at each end, and a system call if the thread's ring has operations in flight. Worth it for what blocks
///   for 50 microseconds or more.
///
/// Windows does this in its kernel for every wait (d7); there is no such function.
public func withBlockingRegion<Result: ~Copyable, Failure: Error>(
    _ body: () throws(Failure) -> Result
) throws(Failure) -> Result {
    let thread = IOThread.current
    thread.enterRegion()
    defer { thread.leaveRegion() }
    return try body()
}
