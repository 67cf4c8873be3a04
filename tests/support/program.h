// Runs the built program as a user does: alone or under mpirun, in a folder of its own, with its output captured, its
// ranks visible and killable. A program that is still running when its object ends is killed with all its ranks.
#pragma once

#include <string>
#include <vector>

namespace matvlm::testing {

struct ProgramResult {
  int code = -1;  // exit code, or 128 + the signal that ended it
  std::string out;
  std::string err;
  // Messages of the lines on stderr that the program logged with this level ("error", "warning"), without time and
  // rank.
  std::vector<std::string> logged(const std::string& level) const;
};

class RunningProgram {
 public:
  // `words`: arguments of the program, which starts in `folder`. ranks 0: without mpirun.
  RunningProgram(const std::string& folder, std::vector<std::string> words, int ranks = 0);
  ~RunningProgram();
  RunningProgram(const RunningProgram&) = delete;
  RunningProgram& operator=(const RunningProgram&) = delete;

  // Processes of the ranks in rank order, once all of them exist; without mpirun the program itself. Error when they do
  // not appear within a minute.
  std::vector<int> rank_processes() const;
  bool ended();
  // Waits for the end; an Error with the output after `seconds`.
  ProgramResult wait(double seconds = 120);

 private:
  std::string folder_;
  std::string output_;  // prefix of the files with stdout and stderr
  int ranks_;
  int process_ = -1;
  int status_ = 0;
  bool reaped_ = false;
};

// Start to end.
ProgramResult run_program(const std::string& folder, const std::vector<std::string>& words, int ranks = 0);
// Any command line, e.g. a script of launch/, with the same environment.
ProgramResult run_shell(const std::string& folder, const std::string& command);

// Path of the built program.
std::string program_path();

// Whether a process is gone; one that nobody has waited for yet counts as gone.
bool is_gone(int process);

// Polls until `condition` holds; false after `seconds`.
template <class Condition>
bool wait_until(double seconds, const Condition& condition);

void sleep_seconds(double seconds);
double monotonic_seconds();

template <class Condition>
bool wait_until(double seconds, const Condition& condition) {
  const double end = monotonic_seconds() + seconds;
  while (!condition()) {
    if (monotonic_seconds() > end) return false;
    sleep_seconds(0.001);
  }
  return true;
}

}  // namespace matvlm::testing
