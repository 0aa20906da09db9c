import Glibc
import IOCP
import Synchronization
import SystemPackage

/// A file of blocks that are written, read back and compared, several at a time.
final class FileAct: Act, @unchecked Sendable {
    static let blockSize = 4096
    let file: File
    let seed: Int

    private init(on stage: Stage, _ file: File, _ chance: inout Chance) {
        self.file = file
        seed = chance.below(Pattern.period)
        super.init(on: stage)
    }

    static func begin(on stage: Stage, _ worker: Worker) throws(PortError) {
        let directory = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
        let path = FilePath(directory).appending("iocp-soak-\(Usage.processNumber)-\(Ledger.nextNumber())")
        let file = try File(path, .readWrite, options: [.create, .exclusiveCreate])
        unlink(path.string)
        let act = FileAct(on: stage, file, &worker.chance)
        guard stage.add(act), act.enter() else { return }
        let world = stage.someWorld(&worker.chance)
        if let key = act.own(file, in: world, worker) {
            for place in 0..<worker.chance.between(1...4) where act.enter() {
                let part = FilePart(act, place, steps: worker.chance.between(1...40), in: world, key: key)
                act.list(part)
                part.go(worker)
            }
        }
        act.leave()
    }
}

/// What one chain does with its own blocks of the file.
final class FilePart: NumberedOperation, @unchecked Sendable {
    private static let blocks = 8
    private enum Doing { case writing, reading, beyondTheEnd, flushing }

    private let act: FileAct
    private let first: Int
    private var stepsLeft: Int
    /// What each block holds; 0 is unknown.
    private var versions = [Int](repeating: 0, count: FilePart.blocks)
    private var doing = Doing.writing
    private var block = 0
    private var version = 1
    private var parts: [IOBuffer] = []

    init(_ act: FileAct, _ place: Int, steps: Int, in world: World, key: UInt) {
        self.act = act
        first = place * Self.blocks
        stepsLeft = steps
        super.init(in: world, key: key, capacity: FileAct.blockSize)
    }

    func go(_ worker: Worker) {
        guard stepsLeft > 0 else { return act.leave() }
        stepsLeft -= 1
        let start = worker.chance.start()
        let begun = begin { () throws(PortError) in try startStep(start, worker) }
        if case .refused(let status) = begun { settle(status, 0, worker) }
    }

    private var offset: Int { (first + block) * FileAct.blockSize }

    private func startStep(_ start: Start, _ worker: Worker) throws(PortError) -> StartOutcome {
        block = worker.chance.below(Self.blocks)
        parts = []
        switch worker.chance.below(20) {
        case 0:
            doing = .flushing
            return try act.file.synchronize(self, dataOnly: worker.chance.happens(500), start: start)
        case 1:
            doing = .beyondTheEnd
            return try act.file.read(self, at: .at(1 << 40), start: start)
        case 2...10 where versions[block] != 0:
            doing = .reading
            if worker.chance.happens(200) {
                parts = [IOBuffer(capacity: 1000), IOBuffer(capacity: FileAct.blockSize - 1000)]
                return try act.file.read(self, at: .at(Int64(offset)), into: parts, start: start)
            }
            buffer!.fill(with: 0)
            return try act.file.read(self, at: .at(Int64(offset)), start: start)
        default:
            doing = .writing
            version = worker.chance.between(1...Pattern.period)
            Pattern.fill(buffer!.bytes, seed: act.seed &+ version, at: block)
            return try act.file.write(self, at: .at(Int64(offset)), start: start)
        }
    }

    override func completed(_ packet: Packet, _ worker: Worker) {
        settle(packet.status, packet.bytes, worker)
    }

    private func settle(_ status: CompletionStatus, _ bytes: Int, _ worker: Worker) {
        Ledger.add(.blocks)
        switch (doing, status) {
        case (.writing, .success):
            if bytes != FileAct.blockSize { Ledger.fail("\(bytes) bytes of a block were written in \(world)") }
            versions[block] = version
        case (.reading, .success): check(bytes)
        case (.flushing, .success), (.beyondTheEnd, .endOfFile): break
        case (_, .cancelled): if doing == .writing { versions[block] = 0 }
        default:
            if !act.mayFail { Ledger.fail("\(doing) a file ended with \(status) in \(world)") }
            act.breakOff()
            return act.leave()
        }
        if world.isDead {
            act.breakOff()
            return act.leave()
        }
        go(worker)
    }

    private func check(_ bytes: Int) {
        var place = 0
        var isRight = bytes == FileAct.blockSize
        for part in parts.isEmpty ? [buffer!] : parts {
            isRight =
                isRight
                && Pattern.matches(.init(part.bytes), seed: act.seed &+ versions[block], at: block + place)
            place += part.capacity
        }
        if !isRight { Ledger.fail("a block of a file is not what was written: \(bytes) bytes read, in \(world)") }
    }
}
