/// What a handle's completions do besides being recorded in their operations.
///
/// Set bits stay set until the handle is closed (e16).
/// The corresponding Win32 function is `SetFileCompletionNotificationModes`.
public struct NotificationModes: OptionSet, Sendable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// No packet for an operation that its eager start reports as completed with success (e12, e13).
    /// The Win32 flag is `FILE_SKIP_COMPLETION_PORT_ON_SUCCESS`.
    public static let skipCompletionPortOnSuccess = NotificationModes(rawValue: 1)
    /// The handle itself is not signaled by completions; an operation's own event still is.
    /// The Win32 flag is `FILE_SKIP_SET_EVENT_ON_HANDLE`.
    public static let skipSetEventOnHandle = NotificationModes(rawValue: 2)

    static let known: NotificationModes = [.skipCompletionPortOnSuccess, .skipSetEventOnHandle]
}
