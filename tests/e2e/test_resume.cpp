// A run that is stopped or killed at any moment and resumed ends with the bits of one that nothing disturbed: weights,
// moments and metrics. Several micro-batches an update, evaluations in between, two ranks.
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <csignal>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <random>

#include "core/file.h"
#include "core/json.h"
#include "core/tensor_source.h"
#include "tests/support/errors.h"
#include "tests/support/program.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_job.h"

namespace matvlm::testing {
namespace {

namespace fs = std::filesystem;

constexpr long kUpdates = 64;

// One job for all tests, and the undisturbed run of two ranks that the others are compared with.
class Resume : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    make_tiny_job(dir_->path());
    undisturbed_ = new ProgramResult(run_program(dir_->path(), words_of("reference"), 2));
    if (undisturbed_->code == 0) reference_ = new RunTrace(trace_of(file("reference")));
  }
  static void TearDownTestSuite() {
    delete reference_;
    delete undisturbed_;
    delete dir_;
  }
  void SetUp() override { ASSERT_EQ(undisturbed_->code, 0) << undisturbed_->err; }

  // 8 samples an update in micro-batches of 2: two micro-batches on each of two ranks.
  static std::vector<std::string> words_of(const std::string& run, const std::vector<std::string>& sets = {}) {
    std::vector<std::string> words = {"distill", "distill.yaml"};
    std::vector<std::string> all = {"run.dir=" + run, "schedule.total=" + std::to_string(8 * kUpdates),
                                    "train.eval_every=2", "train.checkpoint_every=7"};
    all.insert(all.end(), sets.begin(), sets.end());
    for (const std::string& set : all) words.insert(words.end(), {"--set", set});
    return words;
  }
  static std::string file(const std::string& name) { return dir_->file(name); }
  static ProgramResult run(const std::vector<std::string>& words, int ranks = 0) {
    return run_program(dir_->path(), words, ranks);
  }
  static bool has_checkpoint(const std::string& run) {
    return fs::exists(file(run) + "/checkpoints") && !fs::is_empty(file(run) + "/checkpoints");
  }

  static void expect_same_bits(const std::string& run) {
    const RunTrace found = trace_of(file(run));
    EXPECT_EQ(found.checkpoint, reference_->checkpoint);
    EXPECT_TRUE(found.model == reference_->model) << "the weights of " << run << " differ";
    EXPECT_TRUE(found.optimizer == reference_->optimizer) << "the moments of " << run << " differ";
    EXPECT_EQ(found.metrics, reference_->metrics);
  }

  // The program, stopped by `signal` to one rank once update `step` is done. Returns the update it stopped after.
  static long stop(const std::vector<std::string>& words, const std::string& run, int ranks, long step, int signal,
                   size_t to_rank) {
    RunningProgram program(dir_->path(), words, ranks);
    const std::vector<pid_t> processes = program.rank_processes();
    EXPECT_TRUE(wait_until(60, [&] { return last_step(file(run)) >= step || program.ended(); }));
    EXPECT_EQ(kill(processes.at(to_rank), signal), 0) << "the run ended before the signal";
    const ProgramResult result = program.wait();
    EXPECT_EQ(result.code, 0) << result.err;
    const long stopped = last_step(file(run));
    EXPECT_LT(stopped, kUpdates) << "the run ended before the signal";
    EXPECT_EQ(result.logged("info").back(), "stopped by a signal after update " + std::to_string(stopped) +
                                                "; `matvlm resume " + run + "` goes on from there");
    char checkpoint[64];
    snprintf(checkpoint, sizeof(checkpoint), "step-%08ld", stopped);
    EXPECT_EQ(trace_of(file(run)).checkpoint, checkpoint);
    return stopped;
  }

  static inline TempDir* dir_ = nullptr;
  static inline ProgramResult* undisturbed_ = nullptr;
  static inline RunTrace* reference_ = nullptr;
};

TEST_F(Resume, TheUndisturbedRunHasEveryStepOnce) {
  long steps = 0;
  long evaluations = 0;
  for (const std::string& text : reference_->metrics) {
    const Json line = Json::parse(text, "metrics.jsonl");
    if (line.has("event")) {
      ++evaluations;
      EXPECT_EQ(line.at("step").as_int(), 2 * evaluations);
    } else {
      EXPECT_EQ(line.at("step").as_int(), ++steps);
    }
  }
  EXPECT_EQ(steps, kUpdates);
  EXPECT_EQ(evaluations, kUpdates / 2);
}

TEST_F(Resume, RecomputingActivationsChangesNoBit) {
  ASSERT_EQ(run(words_of("recomputed", {"train.recompute=blocks", "train.recompute_layers=1"}), 2).code, 0);
  expect_same_bits("recomputed");
  ASSERT_EQ(run(words_of("mlp", {"train.recompute=mlp", "train.recompute_every=2", "optimizer.offload=cpu"}), 2).code,
            0);
  expect_same_bits("mlp");
}

// The weights are there, the update does not fit any more.
TEST_F(Resume, ALimitOfMemoryEndsWithWhatWouldFit) {
  const ProgramResult found = run(words_of("limited", {"run.memory_limit=1MiB"}));
  EXPECT_EQ(found.code, 1);
  EXPECT_NE(found.err.find("out of memory: asked for"), std::string::npos) << found.err;
  EXPECT_NE(found.err.find("expected a smaller batch.micro"), std::string::npos) << found.err;
}

// Threads and depth of the loader change nothing either.
TEST_F(Resume, StoppedBySignalsToAnyRank) {
  const std::vector<std::string> words = words_of("stopped", {"train.recompute=blocks", "data.threads=3"});
  const long first = stop(words, "stopped", 2, 5, SIGTERM, 1);
  const long second = stop({"resume", "stopped"}, "stopped", 2, first + 3, SIGINT, 0);
  EXPECT_GT(second, first);
  // An odd and an even update, so that one of the stops falls between an update and its evaluation.
  const long third = stop({"resume", "stopped"}, "stopped", 2, second + 2, SIGTERM, 0);
  EXPECT_GT(third, second);
  const ProgramResult last = run({"resume", "stopped", "--set", "data.prefetch=1"}, 2);
  ASSERT_EQ(last.code, 0) << last.err;
  expect_same_bits("stopped");
  // Nothing is left to do.
  const ProgramResult again = run({"resume", "stopped"}, 2);
  EXPECT_EQ(again.code, 0) << again.err;
  expect_same_bits("stopped");
}

// Stops after every update in turn: whatever was due then (evaluation, checkpoint, both, the end) is made up for.
TEST_F(Resume, StoppedAfterEachUpdate) {
  const auto words_for = [&](const std::string& name) {
    return words_of(name, {"schedule.total=48", "schedule.warmup=16", "schedule.decay=16", "train.eval_samples=2"});
  };
  ASSERT_EQ(run(words_for("six")).code, 0);
  {
    // The signal is there before the first update, so the run stops after it.
    RunningProgram program(dir_->path(), words_for("each"));
    ASSERT_TRUE(wait_until(60, [&] { return fs::exists(file("each/lock")); }));
    kill(program.rank_processes().front(), SIGTERM);
    ASSERT_EQ(program.wait().code, 0);
  }
  long stops = 0;
  for (; last_step(file("each")) < 6; ++stops) {
    RunningProgram program(dir_->path(), {"resume", "each"});
    // config.yaml is opened by the command itself, after the signal handlers are in place.
    const auto before = fs::last_write_time(file("each/lock"));
    ASSERT_TRUE(wait_until(60, [&] { return fs::last_write_time(file("each/lock")) != before; }));
    kill(program.rank_processes().front(), SIGTERM);
    ASSERT_EQ(program.wait().code, 0);
  }
  EXPECT_GE(stops, 2);
  ASSERT_EQ(run({"resume", "each"}).code, 0);
  const RunTrace expected = trace_of(file("six"));
  const RunTrace found = trace_of(file("each"));
  EXPECT_EQ(found.metrics, expected.metrics);
  EXPECT_TRUE(found.model == expected.model && found.optimizer == expected.optimizer);
  const auto best = [&](const std::string& name) {
    const Json state = Json::read_file(file(name) + "/checkpoints/step-00000006/state.json");
    return state.at("best_update").dump() + " " + state.at("best_score").dump();
  };
  EXPECT_EQ(best("each"), best("six"));
}

TEST_F(Resume, AnyRankKilledAtAnyMomentTenTimes) {
  const std::vector<std::string> start = words_of("killed", {"train.checkpoint_every=1"});
  std::mt19937 random(20240611);
  for (int round = 0; round < 10; ++round) {
    const bool fresh = !has_checkpoint("killed");
    RunningProgram program(dir_->path(), fresh ? start : std::vector<std::string>{"resume", "killed"}, 2);
    const std::vector<pid_t> ranks = program.rank_processes();
    // Every third time while it starts, else some updates later; then up to 30 ms on.
    if (round % 3 == 1) {
      sleep_seconds(0.4 * static_cast<double>(random() % 1000) / 1000);
    } else {
      const long until = last_step(file("killed")) + static_cast<long>(random() % 3);
      EXPECT_TRUE(wait_until(60, [&] { return last_step(file("killed")) >= until || program.ended(); }));
    }
    sleep_seconds(0.03 * static_cast<double>(random() % 1000) / 1000);
    ASSERT_EQ(kill(ranks[random() % 2], SIGKILL), 0) << "the run ended before the signal in round " << round;
    const ProgramResult result = program.wait(30);
    EXPECT_NE(result.code, 0);
    for (const pid_t rank : ranks) EXPECT_TRUE(wait_until(30, [&] { return is_gone(rank); })) << "round " << round;
  }
  const ProgramResult last = run({"resume", "killed"}, 2);
  ASSERT_EQ(last.code, 0) << last.err;
  expect_same_bits("killed");
}

TEST_F(Resume, KilledWhileACheckpointIsWritten) {
  const std::vector<std::string> start = words_of("writing", {"train.checkpoint_every=1"});
  const std::string folder = file("writing/checkpoints");
  const auto half_written = [&] {
    if (!fs::exists(folder)) return false;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
      if (contains(entry.path().filename().string(), ".tmp-")) return true;
    }
    return false;
  };
  int hits = 0;
  for (int round = 0; hits < 3; ++round) {
    ASSERT_LT(round, 12) << "no kill fell into the writing of a checkpoint";
    const bool fresh = !has_checkpoint("writing");
    RunningProgram program(dir_->path(), fresh ? start : std::vector<std::string>{"resume", "writing"}, 2);
    const pid_t writer = program.rank_processes().front();
    const long until = last_step(file("writing")) + 1 + round % 3;
    ASSERT_TRUE(wait_until(60, [&] { return last_step(file("writing")) >= until; }));
    const double deadline = monotonic_seconds() + 60;
    while (!half_written() && monotonic_seconds() < deadline) {
    }
    ASSERT_EQ(kill(writer, SIGKILL), 0);
    EXPECT_NE(program.wait(30).code, 0);
    hits += half_written() ? 1 : 0;
  }
  const ProgramResult last = run({"resume", "writing"}, 2);
  ASSERT_EQ(last.code, 0) << last.err;
  EXPECT_TRUE(contains(last.err, "removed this left-over of a program that was killed")) << last.err;
  EXPECT_FALSE(half_written());
  expect_same_bits("writing");
}

// Sums over ranks are added in another order then: the same up to rounding.
TEST_F(Resume, OnAnotherNumberOfRanks) {
  const long stopped = stop(words_of("ranks"), "ranks", 2, 24, SIGTERM, 0);
  fs::copy(file("ranks"), file("ranks3"), fs::copy_options::recursive);
  for (const auto& [name, ranks] : {std::pair<std::string, int>{"ranks", 0}, {"ranks3", 3}}) {
    const ProgramResult result = run({"resume", name}, ranks);
    ASSERT_EQ(result.code, 0) << result.err;
    EXPECT_TRUE(contains(result.err, "update " + std::to_string(stopped) + ", ")) << result.err;
    const std::string checkpoint = "/checkpoints/" + reference_->checkpoint + "/model.safetensors";
    const TensorSource expected = TensorSource::open(file("reference") + checkpoint);
    const TensorSource found = TensorSource::open(file(name) + checkpoint);
    ASSERT_EQ(found.names(), expected.names());
    for (const std::string& tensor : expected.names()) {
      const std::vector<float> a = found.read_floats(tensor);
      const std::vector<float> b = expected.read_floats(tensor);
      double difference = 0;
      double norm = 0;
      for (size_t i = 0; i < a.size(); ++i) {
        difference += std::pow(double{a[i]} - double{b[i]}, 2);
        norm += std::pow(double{b[i]}, 2);
      }
      EXPECT_LT(std::sqrt(difference), 1e-5 * std::sqrt(norm)) << tensor << " on " << ranks << " ranks";
    }
    EXPECT_EQ(trace_of(file(name)).metrics.size(), reference_->metrics.size());
  }
}

TEST_F(Resume, WithAnotherConfigNamesTheKeys) {
  const ProgramResult result =
      run({"resume", "reference", "--set", "optimizer.lr=0.5", "--set", "loss.layer=mse", "--set", "train.keep=9"});
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(result.logged("error"),
            std::vector<std::string>{"reference: cannot resume with another config: key 'loss.layer': found mse, "
                                     "expected l2; key 'optimizer.lr': found 0.5, expected 0.001"});
  expect_same_bits("reference");
}

TEST_F(Resume, WithAnotherTeacherOrDataSaysSo) {
  fs::copy(file("reference"), file("changed"), fs::copy_options::recursive);
  std::string teacher = read_file(file("teacher/model.safetensors"));
  const std::string original = teacher;
  teacher.back() = static_cast<char>(teacher.back() ^ 1);
  write_file_atomic(file("teacher/model.safetensors"), teacher);
  const ProgramResult result = run({"resume", "changed"}, 2);
  write_file_atomic(file("teacher/model.safetensors"), original);
  EXPECT_EQ(result.code, 1);
  const auto errors = result.logged("error");
  ASSERT_EQ(errors.size(), 1U) << result.err;
  EXPECT_TRUE(
      errors[0].starts_with("changed/checkpoints/" + reference_->checkpoint +
                            ": the files that the run began with have changed; teacher.model.safetensors: found "))
      << errors[0];
}

TEST_F(Resume, TwoRunsInOneDirectoryAndAFreshRunOverAnOldOne) {
  RunningProgram first(dir_->path(), words_of("shared"), 2);
  ASSERT_TRUE(wait_until(60, [&] { return last_step(file("shared")) >= 1; }));
  const std::vector<pid_t> ranks = first.rank_processes();
  for (const pid_t rank : ranks) kill(rank, SIGSTOP);  // so that it is not over before the others have tried
  const std::string holder = std::to_string(ranks.front());
  for (const auto& words : {words_of("shared"), std::vector<std::string>{"resume", "shared"}}) {
    const ProgramResult second = run(words, 2);
    EXPECT_NE(second.code, 0);
    const auto errors = second.logged("error");
    ASSERT_EQ(errors.size(), 1U) << second.err;
    EXPECT_TRUE(errors[0].starts_with("shared/lock: found another run in this directory (host ")) << errors[0];
    EXPECT_TRUE(errors[0].ends_with(" process " + holder + "), expected none")) << errors[0];
  }
  for (const pid_t rank : ranks) kill(rank, SIGTERM);
  for (const pid_t rank : ranks) kill(rank, SIGCONT);
  ASSERT_EQ(first.wait().code, 0);
  const ProgramResult over = run(words_of("shared"), 2);
  EXPECT_NE(over.code, 0);
  const std::string last = std::to_string(last_step(file("shared")));
  EXPECT_EQ(over.logged("error"),
            std::vector<std::string>{"shared: found checkpoints of an earlier run (the last of update " + last +
                                     "), expected none; `matvlm resume shared` goes on with it"});
  ASSERT_EQ(run({"resume", "shared"}, 2).code, 0);
  expect_same_bits("shared");
}

TEST_F(Resume, ADirectoryThatMoved) {
  stop(words_of("here"), "here", 2, 3, SIGTERM, 0);
  fs::rename(file("here"), file("there"));
  const ProgramResult result = run({"resume", "there/"}, 2);
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_FALSE(fs::exists(file("here")));
  expect_same_bits("there");
}

// Ctrl-C at a script of launch/: mpirun would kill its ranks, run_ranks of mpi.sh lets them finish.
TEST_F(Resume, ScriptsPassCtrlCToTheRanks) {
  std::string words;
  for (const std::string& word : words_of("script")) words += " " + word;
  const std::string source = std::string(MATVLM_SOURCE_DIR) + "/launch/mpi.sh";
  const std::string script = "set -m; (trap - INT; source " + source + "; run_ranks 2 " + program_path() + words +
                             ") & job=$!; for i in $(seq 600); do grep -qs '\"step\":4,' script/metrics.jsonl && "
                             "break; sleep 0.1; done; kill -INT $job; wait $job";
  const ProgramResult result = run_shell(dir_->path(), script);
  EXPECT_EQ(result.code, 130) << result.err;
  EXPECT_TRUE(contains(result.err, "stopped by a signal after update ")) << result.err;
  ASSERT_EQ(run({"resume", "script"}, 2).code, 0);
  expect_same_bits("script");
}

// Files of the run may not grow beyond a size any more, as under `ulimit -f` or a quota.
TEST_F(Resume, FilesThatCannotGrowDuringACheckpoint) {
  RunningProgram program(dir_->path(), words_of("limited"), 2);
  ASSERT_TRUE(wait_until(60, [&] { return last_step(file("limited")) >= 8; }));
  const rlimit limit{30000, 30000};  // less than the 43 kB of the weights
  ASSERT_EQ(prlimit(program.rank_processes().front(), RLIMIT_FSIZE, &limit, nullptr), 0);
  const ProgramResult result = program.wait();
  EXPECT_EQ(result.code, 1);
  const auto errors = result.logged("error");
  ASSERT_EQ(errors.size(), 1U) << result.err;
  EXPECT_TRUE(errors[0].starts_with("limited/checkpoints/step-")) << errors[0];
  EXPECT_TRUE(contains(errors[0], "/model.safetensors: ")) << errors[0];
  EXPECT_TRUE(contains(errors[0], ": cannot write after 30000 bytes: File too large")) << errors[0];
  EXPECT_FALSE(contains(result.err, "LOG ERROR")) << result.err;
  ASSERT_EQ(run({"resume", "limited"}, 2).code, 0);
  expect_same_bits("limited");
}

// A file system of its own that is full: where this process may mount one.
TEST_F(Resume, FullDiskDuringACheckpoint) {
  fs::create_directory(file("small"));
  if (mount("tmpfs", file("small").c_str(), "tmpfs", 0, "size=1m") != 0) {
    std::cout << "no right to mount a tmpfs: the test before this one, with limited files, stands for it\n";
    return;
  }
  {
    RunningProgram program(dir_->path(), words_of("small/run"), 2);
    EXPECT_TRUE(wait_until(60, [&] { return last_step(file("small/run")) >= 8; }));
    std::ofstream filler(file("small/filler"));
    for (int i = 0; i < 300 && filler; ++i) filler << std::string(4096, 'x') << std::flush;
    filler.close();
    const ProgramResult result = program.wait();
    EXPECT_EQ(result.code, 1);
    const auto errors = result.logged("error");
    EXPECT_EQ(errors.size(), 1U) << result.err;
    EXPECT_TRUE(errors.at(0).starts_with("small/run/")) << errors.at(0);
    EXPECT_TRUE(contains(errors.at(0), ": No space left on device")) << errors.at(0);
    EXPECT_FALSE(contains(result.err, "LOG ERROR")) << result.err;
    // Still full: the same end, and the older checkpoint stays valid.
    const ProgramResult again = run({"resume", "small/run"}, 2);
    EXPECT_EQ(again.code, 1);
    EXPECT_EQ(again.logged("error").size(), 1U) << again.err;
    const ProgramResult inspected = run({"inspect", "small/run"});
    EXPECT_TRUE(contains(inspected.out, "distill, seed 2")) << inspected.out;
    EXPECT_FALSE(contains(inspected.out, "damaged")) << inspected.out;
    fs::remove(file("small/filler"));
    const ProgramResult last = run({"resume", "small/run"}, 2);
    EXPECT_EQ(last.code, 0) << last.err;
    expect_same_bits("small/run");
  }
  EXPECT_EQ(umount2(file("small").c_str(), MNT_DETACH), 0);
}

TEST_F(Resume, DamagedCheckpoints) {
  stop(words_of("damaged", {"train.checkpoint_every=1"}), "damaged", 2, 6, SIGTERM, 1);
  const std::string latest = "damaged/checkpoints/" + trace_of(file("damaged")).checkpoint;
  std::string model = read_file(file(latest + "/model.safetensors"));
  model[model.size() / 2] = static_cast<char>(model[model.size() / 2] ^ 4);
  write_file_atomic(file(latest + "/model.safetensors"), model);
  const std::string warning = "damaged checkpoint, trying the one before it: " + latest + "/model.safetensors: found ";
  // The newest one is damaged: its readers say so and take the one before.
  fs::copy(file("damaged"), file("copy"), fs::copy_options::recursive);
  const ProgramResult exported = run({"export", "damaged", "--out", "from_damaged", "--checkpoint", "latest"});
  EXPECT_EQ(exported.code, 0) << exported.err;
  ASSERT_EQ(exported.logged("warning").size(), 1U) << exported.err;
  EXPECT_TRUE(exported.logged("warning")[0].starts_with(warning)) << exported.err;
  const ProgramResult resumed = run({"resume", "damaged"}, 2);
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  ASSERT_EQ(resumed.logged("warning").size(), 1U) << resumed.err;
  EXPECT_TRUE(resumed.logged("warning")[0].starts_with(warning)) << resumed.err;
  expect_same_bits("damaged");
  // All are damaged: one line names them all.
  size_t count = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(file("copy/checkpoints"))) {
    fs::resize_file(entry.path() / "optimizer.safetensors", 100);
    ++count;
  }
  const ProgramResult none = run({"resume", "copy"}, 2);
  EXPECT_NE(none.code, 0);
  ASSERT_EQ(none.logged("error").size(), 1U) << none.err;
  const std::string error = none.logged("error")[0];
  EXPECT_TRUE(error.starts_with("copy/checkpoints: found only damaged checkpoints: copy/checkpoints/step-")) << error;
  size_t named = 0;
  for (size_t at = error.find("copy/checkpoints/step-"); at != std::string::npos;
       at = error.find("copy/checkpoints/step-", at + 1)) {
    ++named;
  }
  EXPECT_EQ(named, count) << error;
}

}  // namespace
}  // namespace matvlm::testing
