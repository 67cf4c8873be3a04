// Checkpoints: round trip by name, complete lists of wrong tensors, damage, disk full, pruning, run directories and
// their locks.
#include "launch/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <functional>

#include "core/error.h"
#include "core/file.h"
#include "launch/run_directory.h"
#include "tests/support/errors.h"
#include "tests/support/op_check.h"
#include "tests/support/temp_dir.h"

namespace matvlm {
namespace {

using testing::contains;

namespace fs = std::filesystem;
using testing::cpu;
using testing::TempDir;

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// Two parameters with values that depend on `seed`.
struct Model {
  explicit Model(uint64_t seed, int64_t rows = 3, const std::string& second = "b.bias", DType dtype = DType::bf16,
                 Offload offload = Offload::none) {
    store.declare("a.weight", {rows, 70});
    store.declare(second, {5}, true);
    store.allocate(cpu(), dtype, offload);
    for (const auto& p : store.parameters()) {
      fill(p->master, p->name + "m", seed);
      fill(p->moment1, p->name + "1", seed);
      fill(p->moment2, p->name + "2", seed);
    }
    store.refresh_compute(cpu());
  }
  static void fill(const Float32View& view, const std::string& name, uint64_t seed) {
    view.copy_from_floats(cpu(), testing::convert<float>(testing::random_values(name, view.numel(), 1.0, seed)));
  }
  std::vector<std::vector<float>> contents() const {
    std::vector<std::vector<float>> all;
    for (const auto& p : store.parameters()) {
      all.push_back(p->master.to_floats(cpu()));
      for (const Tensor* t : {&p->value, &p->moment1, &p->moment2}) all.push_back(t->to_floats(cpu()));
    }
    return all;
  }
  ParameterStore store;
};

RunState state_at(int64_t update) {
  RunState state;
  state.kind = "distill";
  state.update = update;
  state.samples = 64 * update;
  state.epoch = 2;
  state.cursor = 17;
  state.seed = 5;
  state.ranks = 3;
  state.fingerprints = {{"data.train", "0123"}, {"teacher", "\"quoted\""}};
  return state;
}

// Flips one bit in the middle of a file.
void damage(const std::string& path) {
  std::string text = read_file(path);
  text[text.size() / 2] = static_cast<char>(text[text.size() / 2] ^ 1);
  write_file_atomic(path, text);
}

TEST(Checkpoint, ReadsBackTheSameBits) {
  const TempDir dir;
  const Model saved(1);
  RunState state = state_at(123);
  state.evaluated = true;
  state.best_score = 1.0 / 3.0;
  state.best_update = 100;
  state.evaluated_update = 120;
  write_checkpoint(cpu(), saved.store, state, "run:\n  dir: x\n", dir.file("c"));
  EXPECT_EQ(read_checkpoint_state(dir.file("c")), state);
  EXPECT_EQ(read_file(dir.file("c/config.yaml")), "run:\n  dir: x\n");
  Model loaded(2);
  ASSERT_NE(loaded.contents(), saved.contents());
  load_checkpoint(cpu(), loaded.store, dir.file("c"));
  EXPECT_EQ(loaded.contents(), saved.contents());
  EXPECT_EQ(state_from_text(state_text(state), "text"), state);
}

// Masters that are whole (offloaded) and those that are split beside their bf16 copies leave the same files and read
// each other's.
TEST(Checkpoint, IsTheSameForMastersInEitherForm) {
  const TempDir dir;
  Model split(1), whole(1, 3, "b.bias", DType::bf16, Offload::cpu);
  ASSERT_TRUE(split.store.master().split());
  ASSERT_FALSE(whole.store.master().split());
  EXPECT_EQ(split.contents(), whole.contents());
  write_checkpoint(cpu(), split.store, state_at(1), "", dir.file("split"));
  write_checkpoint(cpu(), whole.store, state_at(1), "", dir.file("whole"));
  for (const char* name : {"/model.safetensors", "/optimizer.safetensors"}) {
    EXPECT_EQ(read_file(dir.file("split") + name), read_file(dir.file("whole") + name)) << name;
  }
  Model split_again(2), whole_again(2, 3, "b.bias", DType::bf16, Offload::cpu);
  load_checkpoint(cpu(), split_again.store, dir.file("whole"));
  load_checkpoint(cpu(), whole_again.store, dir.file("split"));
  EXPECT_EQ(split_again.contents(), split.contents());
  EXPECT_EQ(whole_again.contents(), split.contents());
}

TEST(Checkpoint, ListsEveryWrongTensorAndChangesNothing) {
  const TempDir dir;
  write_checkpoint(cpu(), Model(1).store, state_at(1), "", dir.file("c"));
  Model other(2, 4, "c.bias");
  const auto before = other.contents();
  const std::string message = error_of([&] { load_checkpoint(cpu(), other.store, dir.file("c")); });
  EXPECT_EQ(message,
            dir.file("c/optimizer.safetensors") +
                ": found other tensors than expected: 'moment1/a.weight' has shape [3, 70], expected [4, 70]; "
                "'moment2/a.weight' has shape [3, 70], expected [4, 70]; missing 'moment1/c.bias' [5]; missing "
                "'moment2/c.bias' [5]; unexpected 'moment1/b.bias'; unexpected 'moment2/b.bias'");
  EXPECT_EQ(other.contents(), before);
  const TensorSource model = TensorSource::open(dir.file("c/model.safetensors"));
  EXPECT_TRUE(contains(error_of([&] { load_masters(cpu(), other.store, model, true); }), "missing 'c.bias' [5]"));
  Model fewer(2);
  load_masters(cpu(), fewer.store, model, true);
  EXPECT_EQ(fewer.store.find("a.weight")->master.to_floats(cpu()),
            Model(1).store.find("a.weight")->master.to_floats(cpu()));
}

TEST(Checkpoint, NoticesDamageInEveryFile) {
  for (const std::string name : {"model.safetensors", "optimizer.safetensors", "config.yaml", "state.json"}) {
    const TempDir dir;
    write_checkpoint(cpu(), Model(1).store, state_at(1), "run:\n", dir.file("c"));
    damage(dir.file("c/" + name));
    EXPECT_TRUE(error_of([&] { read_checkpoint_state(dir.file("c")); }).starts_with(dir.file("c/" + name) + ": "))
        << error_of([&] { read_checkpoint_state(dir.file("c")); });
    fs::remove(dir.file("c/" + name));
    EXPECT_TRUE(error_of([&] { read_checkpoint_state(dir.file("c")); }).starts_with(dir.file("c/" + name) + ": "));
  }
}

TEST(Checkpoint, TakesTheOlderOneWhenTheNewestIsDamaged) {
  const TempDir dir;
  const CheckpointFolder folder(dir.path(), 3);
  EXPECT_FALSE(folder.find_latest([](const std::string&) { FAIL(); }).has_value());
  for (const int64_t update : {5, 10, 15}) folder.save(cpu(), Model(1).store, state_at(update), "run:\n");
  damage(folder.directory_of(15) + "/model.safetensors");
  fs::remove(folder.directory_of(10) + "/state.json");
  std::vector<std::string> warnings;
  const auto found = folder.find_latest([&](const std::string& text) { warnings.push_back(text); });
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->update, 5);
  EXPECT_EQ(found->state, state_at(5));
  ASSERT_EQ(warnings.size(), 2U);
  EXPECT_TRUE(contains(warnings[0], "step-00000015/model.safetensors: found contents of hash"));
  EXPECT_TRUE(contains(warnings[1], "step-00000010/state.json"));
  damage(folder.directory_of(5) + "/config.yaml");
  EXPECT_TRUE(
      contains(error_of([&] { folder.find_latest([](const std::string&) {}); }), "found only damaged checkpoints: "));
}

TEST(Checkpoint, KeepsTheNewestAndTheBest) {
  const TempDir dir;
  const CheckpointFolder folder(dir.path(), 2);
  const Model model(1);
  const auto save = [&](int64_t update, int64_t best) {
    RunState state = state_at(update);
    state.evaluated = best > 0;
    state.best_update = best;
    folder.save(cpu(), model.store, state, "run:\n");
  };
  save(1, 0);
  save(2, 2);
  save(3, 2);
  EXPECT_EQ(folder.updates(), (std::vector<int64_t>{2, 3}));
  save(4, 2);
  EXPECT_EQ(folder.updates(), (std::vector<int64_t>{2, 3, 4}));
  save(5, 5);
  EXPECT_EQ(folder.updates(), (std::vector<int64_t>{4, 5}));
  // A run that resumed from an older checkpoint writes over what came after it.
  save(4, 4);
  EXPECT_EQ(folder.updates(), (std::vector<int64_t>{4}));
  save(123456789, 4);
  EXPECT_EQ(folder.updates(), (std::vector<int64_t>{4, 123456789}));
  int64_t entries = 0;
  for (const auto& entry : fs::directory_iterator(folder.path())) entries += entry.exists() ? 1 : 0;
  EXPECT_EQ(entries, 2);
}

// Limits the size of files that this process may write, so that writes fail part of the way as on a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit{bytes, old_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  void (*handler_)(int);
  rlimit old_{};
};

TEST(Checkpoint, FullDiskLeavesTheOlderOneAlone) {
  const TempDir dir;
  const CheckpointFolder folder(dir.path(), 3);
  folder.save(cpu(), Model(1).store, state_at(1), "run:\n");
  std::string message;
  {
    const FileSizeLimit limit(1300);  // the model's file fits, the optimizer's does not
    message = error_of([&] { folder.save(cpu(), Model(2).store, state_at(2), "run:\n"); });
  }
  EXPECT_TRUE(contains(message, "optimizer.safetensors: ")) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos);
  int64_t entries = 0;
  for (const auto& entry : fs::directory_iterator(folder.path())) entries += entry.exists() ? 1 : 0;
  EXPECT_EQ(entries, 1);
  const auto found = folder.find_latest([](const std::string&) { FAIL(); });
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->update, 1);
  folder.save(cpu(), Model(2).store, state_at(2), "run:\n");
  EXPECT_EQ(folder.updates(), (std::vector<int64_t>{1, 2}));
}

TEST(RunDirectory, IsLockedAgainstASecondRun) {
  const TempDir dir;
  const auto comms = make_local_comms(1);
  const std::string path = dir.file("runs/x");
  {
    const RunDirectory run(*comms[0], path + "/", RunDirectory::Start::fresh);
    EXPECT_EQ(run.path(), path);
    EXPECT_TRUE(contains(error_of([&] { RunDirectory(*comms[0], path, RunDirectory::Start::fresh); }),
                         "/lock: found another run in this directory (host "));
  }
  const RunDirectory again(*comms[0], path, RunDirectory::Start::fresh);
}

TEST(RunDirectory, RefusesOtherStarts) {
  const TempDir dir;
  const auto comms = make_local_comms(1);
  const std::string path = dir.file("x");
  const auto start = [&](RunDirectory::Start how) { return error_of([&] { RunDirectory(*comms[0], path, how); }); };
  EXPECT_EQ(start(RunDirectory::Start::resume), path + ": found no directory, expected that of a run");
  EXPECT_EQ(start(RunDirectory::Start::fresh), "no error");
  EXPECT_EQ(start(RunDirectory::Start::resume),
            path + "/config.yaml: found nothing, expected the config of a run to resume");
  CheckpointFolder(path, 1).save(cpu(), Model(1).store, state_at(7), "run:\n");
  EXPECT_EQ(start(RunDirectory::Start::fresh),
            path + ": found checkpoints of an earlier run (the last of update 7), expected none; `matvlm resume " +
                path + "` goes on with it");
  write_file_atomic(path + "/config.yaml", "run:\n");
  fs::create_directory(path + "/checkpoints/step-00000009.tmp-1-2");
  EXPECT_EQ(start(RunDirectory::Start::resume), "no error");
  EXPECT_FALSE(fs::exists(path + "/checkpoints/step-00000009.tmp-1-2"));
}

TEST(RunDirectory, ErrorsOfRankZeroReachAllRanks) {
  const TempDir dir;
  std::atomic<int> told{0};
  run_local_ranks(3, [&](Comm& comm) {
    const std::string message = error_of([&] { on_rank_zero(comm, [] { fail("disk full"); }); });
    if (message == "disk full") ++told;
    on_rank_zero(comm, [] {});
  });
  EXPECT_EQ(told, 3);
}

TEST(RunDirectory, RanksAgreeOnTheCheckpoint) {
  const TempDir dir;
  std::atomic<int> agreed{0};
  run_local_ranks(3, [&](Comm& comm) {
    const RunDirectory run(comm, dir.file("r"), RunDirectory::Start::fresh);
    const CheckpointFolder folder(run.path(), 2);
    if (!find_latest_checkpoint(comm, folder)) ++agreed;
    const Model model(1);
    save_checkpoint(comm, folder, cpu(), model.store, state_at(4), "run:\n");
    const auto found = find_latest_checkpoint(comm, folder);
    if (found && found->update == 4 && found->state == state_at(4)) ++agreed;
  });
  EXPECT_EQ(agreed, 6);
}

}  // namespace
}  // namespace matvlm
