// Processes of the end-to-end tests: fork, exec, and what /proc says about them.
#include "tests/support/program.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>

#include "core/error.h"
#include "core/file.h"

namespace matvlm::testing {
namespace {

namespace fs = std::filesystem;

// As root and with more ranks than cores Open MPI wants to be told; one thread a rank, so that two ranks fit two cores.
void set_environment() {
  for (const char* name : {"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMP_NUM_THREADS",
                           "OMPI_MCA_rmaps_base_oversubscribe"}) {
    setenv(name, "1", 1);
  }
  setenv("OMPI_MCA_hwloc_base_binding_policy", "none", 1);
  setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 1);
}

// In the child: becomes the command, or ends with code 127.
[[noreturn]] void become(const std::string& folder, const std::string& output, std::vector<std::string> words) {
  setsid();  // the whole job is one group that can be killed
  set_environment();
  const int in = open("/dev/null", O_RDONLY);
  const int out = open((output + ".out").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
  const int err = open((output + ".err").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
  if (chdir(folder.c_str()) != 0 || in < 0 || out < 0 || err < 0) _exit(127);
  dup2(in, STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(err, STDERR_FILENO);
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  _exit(127);
}

// The line of /proc/PID/status that starts with `key`; none when the process is gone.
std::optional<std::string> status_line(pid_t process, const std::string& key) {
  std::ifstream file("/proc/" + std::to_string(process) + "/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key)) return line.substr(key.size());
  }
  return std::nullopt;
}

// A rank's place in its job, from its environment; -1 for other processes.
int rank_of(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/environ", std::ios::binary);
  constexpr std::string_view kName = "OMPI_COMM_WORLD_RANK=";
  for (std::string entry; std::getline(file, entry, '\0');) {
    if (entry.starts_with(kName)) return std::atoi(entry.c_str() + kName.size());
  }
  return -1;
}

std::vector<pid_t> children_of(pid_t parent) {
  std::vector<pid_t> children;
  for (const fs::directory_entry& entry : fs::directory_iterator("/proc")) {
    const pid_t process = std::atoi(entry.path().filename().c_str());
    if (process <= 0) continue;
    const auto parent_line = status_line(process, "PPid:");
    if (parent_line && std::atoi(parent_line->c_str()) == parent) children.push_back(process);
  }
  return children;
}

std::string unique_output(const std::string& folder) {
  static int counter = 0;
  return folder + "/output-" + std::to_string(getpid()) + "-" + std::to_string(counter++);
}

pid_t start(const std::string& folder, const std::string& output, const std::vector<std::string>& words) {
  const pid_t process = fork();
  check(process >= 0, "fork failed");
  if (process == 0) become(folder, output, words);
  return process;
}

std::vector<std::string> command_of(std::vector<std::string> words, int ranks) {
  std::vector<std::string> command;
  if (ranks > 0) command = {MATVLM_MPIEXEC, "-n", std::to_string(ranks)};
  command.push_back(program_path());
  command.insert(command.end(), words.begin(), words.end());
  return command;
}

ProgramResult result_of(int status, const std::string& output) {
  ProgramResult result;
  result.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.out = read_file(output + ".out");
  result.err = read_file(output + ".err");
  return result;
}

}  // namespace

std::vector<std::string> ProgramResult::logged(const std::string& level) const {
  std::vector<std::string> messages;
  const std::string mark = " " + level + " [";
  for (size_t begin = 0; begin < err.size();) {
    const size_t end = std::min(err.find('\n', begin), err.size());
    const std::string line = err.substr(begin, end - begin);
    begin = end + 1;
    if (line.find(mark) != std::string("00:00:00").size()) continue;
    messages.push_back(line.substr(line.find("] ") + 2));
  }
  return messages;
}

RunningProgram::RunningProgram(const std::string& folder, std::vector<std::string> words, int ranks)
    : folder_(folder), output_(unique_output(folder)), ranks_(ranks) {
  process_ = start(folder, output_, command_of(std::move(words), ranks));
}

RunningProgram::~RunningProgram() {
  if (!reaped_) {
    for (const pid_t rank : children_of(process_)) kill(rank, SIGKILL);
    kill(-process_, SIGKILL);
    kill(process_, SIGKILL);
    waitpid(process_, &status_, 0);
  }
  std::error_code ignored;
  for (const char* end : {".out", ".err"}) fs::remove(output_ + end, ignored);
}

std::vector<pid_t> RunningProgram::rank_processes() const {
  if (ranks_ == 0) return {process_};
  std::vector<pid_t> ranks;
  const bool found = wait_until(60, [&] {
    ranks.assign(static_cast<size_t>(ranks_), 0);
    for (const pid_t child : children_of(process_)) {
      const int rank = rank_of(child);
      if (rank >= 0 && rank < ranks_) ranks[static_cast<size_t>(rank)] = child;
    }
    return std::find(ranks.begin(), ranks.end(), 0) == ranks.end();
  });
  if (!found) fail("the ranks did not start: ", read_file(output_ + ".err"));
  return ranks;
}

bool RunningProgram::ended() {
  if (!reaped_) reaped_ = waitpid(process_, &status_, WNOHANG) == process_;
  return reaped_;
}

ProgramResult RunningProgram::wait(double seconds) {
  if (!wait_until(seconds, [&] { return ended(); })) {
    fail("still running after ", seconds, " s: ", read_file(output_ + ".err"));
  }
  return result_of(status_, output_);
}

ProgramResult run_program(const std::string& folder, const std::vector<std::string>& words, int ranks) {
  return RunningProgram(folder, words, ranks).wait(300);
}

ProgramResult run_shell(const std::string& folder, const std::string& command) {
  const std::string output = unique_output(folder);
  const pid_t process = start(folder, output, {"bash", "-c", command});
  int status = 0;
  check(waitpid(process, &status, 0) == process, "waitpid failed");
  const ProgramResult result = result_of(status, output);
  for (const char* end : {".out", ".err"}) fs::remove(output + end);
  return result;
}

std::string program_path() { return MATVLM_PROGRAM; }

bool is_gone(pid_t process) {
  const auto state = status_line(process, "State:");
  return !state || state->find('Z') != std::string::npos;
}

void sleep_seconds(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

double monotonic_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace matvlm::testing
