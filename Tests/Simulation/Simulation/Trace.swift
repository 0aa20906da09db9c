import Glibc

/// The last events of a run, for a seed that fails.
///
/// A line is: the time in microseconds since the run began, the thread, what it does or what the kernel does to it.
/// `kernel` lines are the virtual kernel's; `[...]` after a line is the state of a port when its lock is given back:
/// packets queued (oldest first), waiters (newest first), threads counted as running, and the limit.
/// Packets: `p12` is a post, `o3` a completion of operation 3. Threads are A, B, C in the order of the scenario.
final class Trace {
    var isOn = false
    private var lines: [String] = []
    /// Lines that are shown; all, where one seed is asked for.
    var most = 120

    @inline(__always)
    func note(_ text: @autoclosure () -> String, by name: String? = nil) {
        if isOn { append(text(), name ?? world.current.name) }
    }

    private func append(_ text: String, _ name: String) {
        let time = (world.now - World.start) / 100
        let label = name + String(repeating: " ", count: max(0, 8 - name.count))
        let stamp = "\(time / 10).\(time % 10)"
        lines.append(String(repeating: " ", count: max(0, 9 - stamp.count)) + stamp + "  " + label + " " + text)
        if lines.count > 2 * most { lines.removeFirst(lines.count - most) }
    }

    func begin() { lines.removeAll() }

    /// Prints what there is.
    func finish() {
        guard isOn else { return }
        for line in lines.suffix(most) { print(line) }
        fflush(nil)
    }
}
