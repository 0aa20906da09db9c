import CBaselines
import FoundationEssentials
import Glibc

/// What stops a row or the run, in words for the user.
struct Failure: Error, CustomStringConvertible {
    var description: String

    init(_ description: String) {
        self.description = description
    }

    init(_ doing: String, errno code: Int32) {
        self.init("\(doing): \(unsafe String(cString: strerror(code)))")
    }
}

/// Takes what the C side returns: a negative value is an errno.
@discardableResult
func check<Value: SignedInteger & FixedWidthInteger>(_ result: Value, _ doing: @autoclosure () -> String) throws
    -> Value
{
    guard result >= 0 else { throw Failure(doing(), errno: Int32(truncatingIfNeeded: -result)) }
    return result
}

/// Makes a directory, and those above it, unless it is there.
func createDirectory(_ path: String) throws {
    do {
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    } catch {
        throw Failure("the directory \(path) cannot be created")
    }
}
