// The program. Whatever goes wrong ends here, as one line and an exit code other than 0.
#include <unistd.h>

#include <cstdlib>
#include <exception>
#include <string>

#include "core/log.h"
#include "launch/cli.h"
#include "launch/runtime.h"

namespace {

std::string describe(const std::exception& error) {
  // Standard exceptions say little by themselves.
  const bool own = dynamic_cast<const std::runtime_error*>(&error) != nullptr;
  return own ? error.what() : std::string("internal failure: ") + error.what();
}

int run_tool(const matvlm::CommandLine& command) {
  try {
    return command.tool();
  } catch (const std::exception& error) {
    matvlm::log_error(describe(error));
    return matvlm::kExitFailure;
  }
}

int run_job(const matvlm::CommandLine& command) {
  matvlm::Process process;
  try {
    return command.job(process);
  } catch (const std::exception& error) {
    return process.report_failure(describe(error));
  }
}

// OpenMP's threads by default wait for each other by spinning, which on a machine that has anything else to do costs
// many times the work itself (seven times, measured, on two cores with two compilers running). The library reads the
// policy when it is loaded, so the program starts itself again with the policy set. A user's own setting stays, and so
// does everything if that fails.
void wait_without_spinning(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  if (setenv("OMP_WAIT_POLICY", "passive", 1) == 0) execv("/proc/self/exe", argv);
}

}  // namespace

int main(int argc, char** argv) {
  wait_without_spinning(argv);
  try {
    const matvlm::CommandLine command = matvlm::parse_command_line(argc, argv);
    if (command.tool) return run_tool(command);
    if (command.job) return run_job(command);
    return command.exit_code;
  } catch (const std::exception& error) {  // MPI did not start, say
    matvlm::log_error(describe(error));
    return matvlm::kExitFailure;
  }
}
