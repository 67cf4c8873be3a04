// The program itself on N ranks, on a job of seconds: two runs give the same bits; a run whose rank is killed ends
// everywhere and resumes to the same bits; a checkpoint of N ranks goes on with 1 and N/2 ranks and back.
// Arguments: cpu|cuda RANKS. Prints "ok" or "failed" and what was found for each; exit code 1 when one failed.
#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/safetensors.h"
#include "tests/support/program.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_job.h"

namespace matvlm::testing {
namespace {

namespace fs = std::filesystem;

constexpr long kUpdates = 60;
constexpr long kKilledAfter = 12;
constexpr double kEndSeconds = 60;   // for all ranks to end after one of them was killed
constexpr double kRunSeconds = 45;   // for a run
constexpr double kTolerance = 1e-5;  // the rule of the project, as in tests/e2e/test_resume.cpp

class Job {
 public:
  Job(std::string device, int ranks) : device_(std::move(device)), ranks_(ranks) { make_tiny_job(dir_.path()); }

  int ranks() const { return ranks_; }
  std::string file(const std::string& name) const { return dir_.file(name); }
  const std::string& folder() const { return dir_.path(); }

  // Two micro-batches on each rank, checkpoints and evaluations in between; every checkpoint is kept.
  std::vector<std::string> words_of(const std::string& run) const {
    const int batch = 4 * ranks_;
    std::vector<std::string> words = {"distill", "distill.yaml", "--device", device_};
    for (const std::string& set :
         {"run.dir=" + run, cat("batch.size=", batch), cat("schedule.total=", batch * kUpdates),
          cat("schedule.warmup=", 2 * batch), cat("schedule.decay=", 2 * batch), std::string("train.eval_every=10"),
          std::string("train.checkpoint_every=5"), std::string("train.keep=1000")}) {
      words.insert(words.end(), {"--set", set});
    }
    return words;
  }

  void run(const std::vector<std::string>& words, int ranks) const {
    const ProgramResult result = RunningProgram(folder(), words, ranks).wait(kRunSeconds);
    check(result.code == 0, "matvlm ", words[0], " ", words[1], " on ", ranks, " ranks: found exit code ", result.code,
          ": ", result.err);
  }

  void check_same_bits(const std::string& found_run, const std::string& expected_run) const {
    const RunTrace found = trace_of(file(found_run));
    const RunTrace expected = trace_of(file(expected_run));
    check(found.checkpoint == expected.checkpoint, found_run, ": found ", found.checkpoint, " as the last checkpoint, ",
          "expected ", expected.checkpoint);
    check(found.model == expected.model, found_run, ": other weights than ", expected_run);
    check(found.optimizer == expected.optimizer, found_run, ": other moments than ", expected_run);
    check(found.metrics == expected.metrics, found_run, ": other metrics than ", expected_run);
  }

  // Checkpoints after update `last` are taken away: the run was stopped there.
  void forget_after(const std::string& run, long last) const {
    std::vector<fs::path> later;
    for (const fs::directory_entry& entry : fs::directory_iterator(file(run) + "/checkpoints")) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with("step-") && std::stol(name.substr(5)) > last) later.push_back(entry.path());
    }
    check(!later.empty(), run, ": found no checkpoint after update ", last);
    for (const fs::path& path : later) fs::remove_all(path);
  }

  double largest_distance(const std::string& found_run, const std::string& expected_run) const {
    const auto source = [&](const std::string& run) {
      return TensorSource::open(cat(file(run), "/checkpoints/", trace_of(file(run)).checkpoint, "/model.safetensors"));
    };
    const TensorSource found = source(found_run);
    const TensorSource expected = source(expected_run);
    check(found.names() == expected.names() && !found.names().empty(), found_run, ": other tensors");
    double largest = 0;
    for (const std::string& name : expected.names()) {
      const std::vector<float> a = found.read_floats(name);
      const std::vector<float> b = expected.read_floats(name);
      double difference = 0, norm = 0;
      for (size_t i = 0; i < a.size(); ++i) {
        difference += std::pow(double{a[i]} - double{b[i]}, 2);
        norm += std::pow(double{b[i]}, 2);
      }
      check(std::isfinite(difference), name, ": found a value that is not finite");
      largest = std::max(largest, std::sqrt(difference / norm));
    }
    return largest;
  }

 private:
  TempDir dir_;
  std::string device_;
  int ranks_;
};

std::string two_runs(const Job& job) {
  job.run(job.words_of("reference"), job.ranks());
  job.run(job.words_of("twin"), job.ranks());
  job.check_same_bits("twin", "reference");
  return cat(kUpdates, " updates on ", job.ranks(), " ranks, twice: weights, moments and metrics have the same bits");
}

std::string killed_rank(const Job& job) {
  RunningProgram program(job.folder(), job.words_of("killed"), job.ranks());
  const std::vector<pid_t> ranks = program.rank_processes();
  const bool reached =
      wait_until(kRunSeconds, [&] { return last_step(job.file("killed")) >= kKilledAfter || program.ended(); });
  check(reached, "the run did not reach update ", kKilledAfter);
  check(kill(ranks.back(), SIGKILL) == 0, "the run ended before the signal");
  const double start = monotonic_seconds();
  const ProgramResult result = program.wait(kEndSeconds);
  for (const pid_t rank : ranks) {
    check(wait_until(kEndSeconds - (monotonic_seconds() - start), [&] { return is_gone(rank); }),
          "a rank outlived the ", "killed one by ", kEndSeconds, " s");
  }
  const double seconds = monotonic_seconds() - start;
  check(result.code != 0, "mpirun reported success although a rank was killed");
  const long stopped = last_step(job.file("killed"));
  check(stopped < kUpdates, "the run was over before the kill");
  job.run({"resume", "killed"}, job.ranks());
  job.check_same_bits("killed", "reference");
  char text[160];
  std::snprintf(text, sizeof(text), "killed after update %ld: all ended in %.1f s, code %d; resumed to the same bits",
                stopped, seconds, result.code);
  return text;
}

std::string other_ranks(const Job& job) {
  fs::copy(job.file("reference"), job.file("elsewhere"), fs::copy_options::recursive);
  std::vector<int> numbers = {1};
  if (job.ranks() / 2 > 1) numbers.push_back(job.ranks() / 2);
  numbers.push_back(job.ranks());
  long update = 20;
  std::string path = cat(job.ranks());
  for (const int ranks : numbers) {
    job.forget_after("elsewhere", update);
    job.run({"resume", "elsewhere"}, ranks);
    path += cat(", from ", update, " on ", ranks);
    update += 10;
  }
  const double distance = job.largest_distance("elsewhere", "reference");
  char text[160];
  std::snprintf(text, sizeof(text), "ranks %s: largest relative difference of a tensor %.1e, bound %.0e", path.c_str(),
                distance, kTolerance);
  check(distance <= kTolerance, text);
  return text;
}

bool part(const char* name, const std::function<std::string()>& work) {
  const double start = monotonic_seconds();
  bool ok = false;
  std::string text;
  try {
    text = work();
    ok = true;
  } catch (const std::exception& error) {
    text = error.what();
  }
  std::printf("%s: %s (%.1f s): %s\n", name, ok ? "ok" : "failed", monotonic_seconds() - start, text.c_str());
  std::fflush(stdout);
  return ok;
}

int run(int argc, char** argv) {
  check(argc == 3, "found ", argc - 1, " arguments, expected cpu|cuda RANKS");
  const int ranks = std::atoi(argv[2]);
  check(ranks >= 2, "found '", argv[2], "' ranks, expected 2 or more");
  const Job job(argv[1], ranks);
  bool ok = part("two runs", [&] { return two_runs(job); });
  ok = part("killed rank", [&] { return killed_rank(job); }) && ok;
  ok = part("other ranks", [&] { return other_ranks(job); }) && ok;
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace matvlm::testing

int main(int argc, char** argv) {
  try {
    return matvlm::testing::run(argc, argv);
  } catch (const std::exception& error) {
    std::printf("failed: %s\n", error.what());
    return 1;
  }
}
