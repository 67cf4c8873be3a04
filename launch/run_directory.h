// The directory of a run: who may write to it, where its files are, and what its ranks do together. Rank 0 writes, the
// others wait and hear of its errors. `host` is a communicator of host memory, over all ranks of the job.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/comm.h"
#include "core/file.h"
#include "launch/checkpoint.h"

namespace matvlm {

// Runs `work` on rank 0 while the others wait. When it throws, every rank throws an Error with its message. Collective.
void on_rank_zero(Comm& host, const std::function<void()>& work);

class RunDirectory {
 public:
  enum class Start { fresh, resume };

  // Rank 0 makes the folder (fresh) or looks for it (resume), locks it for the life of the object, and clears away what
  // killed programs left in it. Error on every rank when another run holds the lock, when a fresh run finds
  // checkpoints, when there is nothing to resume. Collective.
  RunDirectory(Comm& host, const std::string& path, Start start);

  const std::string& path() const { return path_; }
  std::string config_file() const { return path_ + "/config.yaml"; }
  std::string metrics_file() const { return path_ + "/metrics.jsonl"; }
  std::string log_file() const { return path_ + "/log.txt"; }

 private:
  void open(Start start);

  std::string path_;
  std::unique_ptr<FileLock> lock_;  // on rank 0
};

// CheckpointFolder::save on rank 0 while the others wait; errors are seen by all. Collective.
void save_checkpoint(Comm& host, const CheckpointFolder& folder, Context& ctx, const ParameterStore& parameters,
                     const RunState& state, const std::string& config_yaml);

// CheckpointFolder::find_latest by rank 0, told to all. Collective.
std::optional<CheckpointFolder::Found> find_latest_checkpoint(Comm& host, const CheckpointFolder& folder);

}  // namespace matvlm
