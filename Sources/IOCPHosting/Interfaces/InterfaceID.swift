/// The identifier of an interface: a GUID.
///
/// The corresponding Windows type is `IID`.
public struct InterfaceID: Hashable, Sendable, CustomStringConvertible {
    private let high: UInt64
    private let low: UInt64

    /// - Parameters:
    ///   - data1: the first group of digits, as the others in the order in which they are written.
    ///   - data4: the last two groups.
    public init(_ data1: UInt32, _ data2: UInt16, _ data3: UInt16, _ data4: UInt64) {
        high = UInt64(data1) << 32 | UInt64(data2) << 16 | UInt64(data3)
        low = data4
    }

    public static let unknown = InterfaceID(0x0000_0000, 0x0000, 0x0000, 0xC000_0000_0000_0046)
    public static let hostMemoryManager = InterfaceID(0x7BC6_98D1, 0xF9E3, 0x4460, 0x9CDE_D042_48E9_FA25)
    public static let hostTaskManager = InterfaceID(0x997F_F24C, 0x43B7, 0x4352, 0x8667_0DC0_4FAF_D354)
    public static let hostThreadPoolManager = InterfaceID(0x983D_50E2, 0xCB15, 0x466B, 0x80FC_845D_C6E8_C5FD)
    public static let hostIOCompletionManager = InterfaceID(0x8BDE_9D80, 0xEC06, 0x41D6, 0x83E6_2258_0EFF_CC20)
    public static let clrIOCompletionManager = InterfaceID(0x2D74_CE86, 0xB8D6, 0x4C84, 0xB3A7_9768_933B_3C12)

    /// As in `{8BDE9D80-EC06-41D6-83E6-22580EFFCC20}`.
    public var description: String {
        func digits(_ value: UInt64, _ count: Int) -> String {
            let text = String(value, radix: 16, uppercase: true)
            return String(repeating: "0", count: count - text.utf8.count) + text
        }
        let groups = [
            digits(high >> 32, 8), digits(high >> 16 & 0xFFFF, 4), digits(high & 0xFFFF, 4), digits(low >> 48, 4),
            digits(low & 0xFFFF_FFFF_FFFF, 12),
        ]
        return "{" + groups.joined(separator: "-") + "}"
    }
}
