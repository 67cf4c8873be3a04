// The command line: subcommands, options, help. launch/cli.cpp is the only file that includes CLI11.
#pragma once

#include <functional>
#include <string>

namespace matvlm {

class Process;

// Exit codes of the program.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;

// What the command line asks for: exactly one of the two functions is set, or none when it is done already (--help,
// --version, a usage error whose line was printed); then exit_code says how.
struct CommandLine {
  std::function<int(Process&)> job;  // runs under MPI
  std::function<int()> tool;         // one process without MPI
  int exit_code = kExitOk;
};

CommandLine parse_command_line(int argc, char** argv);

}  // namespace matvlm
