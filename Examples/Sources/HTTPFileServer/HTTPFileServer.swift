import ArgumentParser
import ExampleSupport

@main
struct HTTPFileServer: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "http-file-server", abstract: "Serves the files of a directory over HTTP/1.1.")

    @OptionGroup var options: ServerOptions

    @Argument(help: "The directory.")
    var directory = "."

    func run() throws {
        let tree: FileTree
        do {
            tree = try FileTree(root: directory)
        } catch {
            throw ValidationError("The directory \(directory) cannot be served: \(error)")
        }
        try Server.run(options) { socket, server in
            HTTPConnection(socket, of: server, tree: tree)
        }
    }
}
