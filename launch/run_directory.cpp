// Run directories and the collective side of checkpoints.
#include "launch/run_directory.h"

#include <filesystem>
#include <system_error>

#include "core/error.h"
#include "core/log.h"

namespace matvlm {

namespace fs = std::filesystem;

void on_rank_zero(Comm& host, const std::function<void()>& work) {
  std::string message;
  if (host.rank() == 0) {
    try {
      work();
    } catch (const std::exception& error) {
      message = error.what();
      if (message.empty()) message = "failed without a message";
    }
  }
  if (host.size() > 1) message = broadcast_string(host, message, 0);
  if (!message.empty()) throw Error(message);
}

RunDirectory::RunDirectory(Comm& host, const std::string& path, Start start) : path_(path) {
  while (path_.size() > 1 && path_.back() == '/') path_.pop_back();
  on_rank_zero(host, [&] { open(start); });
}

void RunDirectory::open(Start start) {
  std::error_code error;
  if (start == Start::resume) {
    check(fs::is_directory(path_, error), path_, ": found no directory, expected that of a run");
    check(fs::exists(config_file(), error), config_file(), ": found nothing, expected the config of a run to resume");
  }
  fs::create_directories(path_ + "/checkpoints", error);
  check(!error, path_, ": cannot create the folder of the run: ", error.message());
  lock_ = std::make_unique<FileLock>(path_ + "/lock", "another run in this directory");
  for (const std::string& folder : {path_, path_ + "/checkpoints"}) {
    for (const std::string& removed : remove_stale_temporaries(folder)) {
      log_info(removed + ": removed this left-over of a program that was killed");
    }
  }
  if (start == Start::resume) return;
  const std::vector<int64_t> updates = CheckpointFolder(path_, 1).updates();
  check(updates.empty(), path_, ": found checkpoints of an earlier run (the last of update ",
        updates.empty() ? 0 : updates.back(), "), expected none; `matvlm resume ", path_, "` goes on with it");
}

void save_checkpoint(Comm& host, const CheckpointFolder& folder, Context& ctx, const ParameterStore& parameters,
                     const RunState& state, const std::string& config_yaml) {
  on_rank_zero(host, [&] { folder.save(ctx, parameters, state, config_yaml); });
}

std::optional<CheckpointFolder::Found> find_latest_checkpoint(Comm& host, const CheckpointFolder& folder) {
  std::optional<CheckpointFolder::Found> found;
  on_rank_zero(host, [&] { found = folder.find_latest(log_warn); });
  if (host.size() == 1) return found;
  // The state travels as text, so that the other ranks need not read and verify the files a second time.
  const std::string text = broadcast_string(host, found ? state_text(found->state) : "", 0);
  if (text.empty()) return std::nullopt;
  if (!found) {
    const RunState state = state_from_text(text, folder.path());
    found = CheckpointFolder::Found{state.update, state};
  }
  return found;
}

}  // namespace matvlm
