import CSimulation
import Glibc

// Runs seeds of the simulator, in as many processes as there are processors.
//
//     iocp-simulate [--seeds N] [--first SEED] [--trace SEED] [--prove]
//
// Nothing but the seed decides what happens: hashing must not either.
if getenv("SWIFT_DETERMINISTIC_HASHING") == nil {
    setenv("SWIFT_DETERMINISTIC_HASHING", "1", 1)
    var arguments: [UnsafeMutablePointer<CChar>?] = CommandLine.arguments.map { strdup($0) }
    arguments.append(nil)
    execv("/proc/self/exe", arguments)
}

var seeds = 100_000
var first: UInt64 = 1
var traced: UInt64?
var proves = false

func usage() -> Never {
    print("usage: iocp-simulate [--seeds N] [--first SEED] [--trace SEED] [--prove]")
    exit(2)
}

func number(_ text: String?) -> UInt64 {
    guard let text, let number = UInt64(text) else { usage() }
    return number
}

var arguments = CommandLine.arguments.dropFirst().makeIterator()
while let argument = arguments.next() {
    switch argument {
    case "--seeds": seeds = Int(clamping: number(arguments.next()))
    case "--first": first = number(arguments.next())
    case "--trace": traced = number(arguments.next())
    case "--prove": proves = true
    default: usage()
    }
}

if proves {
    exit(prove() ? 0 : 1)
} else if let traced {
    let failure = Child(Scenario(seed: traced), traces: true, tracesAll: true).outcome()
    print(failure.map { "seed \(traced) fails: \($0)" } ?? "seed \(traced) passes")
    exit(failure == nil ? 0 : 1)
} else {
    exit(simulate(seeds, from: first) ? 0 : 1)
}
