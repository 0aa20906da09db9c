import FoundationEssentials

/// The rows of fio: its io_uring engine on the same file, with what its manual has for the fewest instructions.
enum FioReads {
    static func run(_ settings: WorkSettings, depth: Int, isDirect: Bool) throws -> Measurement {
        let milliseconds = Int((settings.seconds * 1000).rounded(.up))
        let arguments = [
            "--name=iocp-bench", "--filename=\(settings.file)", "--size=\(settings.fileBytes)", "--readonly",
            "--rw=randread", "--bs=4k", "--norandommap", "--randrepeat=0", "--direct=\(isDirect ? 1 : 0)",
            // Else it would drop the file from the page cache before it begins.
            "--invalidate=0",
            "--ioengine=io_uring", "--iodepth=\(depth)", "--iodepth_batch_submit=\(depth)",
            "--iodepth_batch_complete_min=1", "--iodepth_batch_complete_max=\(depth)",
            "--fixedbufs", "--registerfiles", "--nonvectored=1",
            "--lat_percentiles=1", "--thread", "--time_based", "--runtime=\(milliseconds)ms", "--output-format=json",
        ]
        let text = try ChildProcess(arguments, program: "fio").output(within: settings.seconds + 40)
        // What it has to remark comes before the JSON.
        guard let begin = text.firstIndex(of: "{") else { throw Failure("fio answered without JSON: \(text)") }
        let report = try JSONDecoder().decode(Report.self, from: Data(text[begin...].utf8))
        guard let job = report.jobs.first, job.error == 0, job.read.total_ios > 0, job.read.runtime > 0 else {
            throw Failure("fio read nothing")
        }
        let seconds = Double(job.read.runtime) / 1000
        return Measurement(
            operations: job.read.total_ios,
            seconds: seconds,
            // It reports shares of the run time in percent.
            cpuNanoseconds: UInt64((job.usr_cpu + job.sys_cpu) / 100 * Double(job.job_runtime) * 1e6),
            voluntarySwitches: job.ctx,
            involuntarySwitches: 0,
            latency: job.read.lat_ns.flatMap(Latency.init)
        )
    }

    /// What is needed of its JSON output; the names are its own.
    private struct Report: Decodable {
        var jobs: [Job]

        struct Job: Decodable {
            var error: Int
            var job_runtime: UInt64
            var usr_cpu: Double
            var sys_cpu: Double
            var ctx: UInt64
            var read: Read
        }

        struct Read: Decodable {
            var total_ios: UInt64
            var runtime: UInt64
            var lat_ns: Distribution?
        }
    }

    fileprivate struct Distribution: Decodable {
        var N: UInt64
        var mean: Double
        var max: UInt64
        var percentile: [String: UInt64]?
    }
}

extension Latency {
    /// fio's own, with the percentiles that it reports.
    fileprivate init?(_ distribution: FioReads.Distribution) {
        guard let percentile = distribution.percentile else { return nil }
        let values = percentile.compactMap { name, value in
            Double(name).map { Quantile(percentile: $0, nanoseconds: value) }
        }.sorted { $0.percentile < $1.percentile }
        func value(_ wanted: Double) -> UInt64 { values.last { $0.percentile <= wanted + 1e-9 }?.nanoseconds ?? 0 }
        self.init(
            count: distribution.N, mean: distribution.mean, p50: value(50), p90: value(90), p99: value(99),
            p999: value(99.9), max: distribution.max, quantiles: values)
    }
}
