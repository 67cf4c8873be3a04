// Checkpoints of a run: RUN/checkpoints/step-00000123/ with model.safetensors (float32 masters of the trained tensors),
// optimizer.safetensors (moments, keyed by tensor name), config.yaml and state.json (everything else that the run needs
// to go on with the same bits, and a hash of each file). A directory appears complete or not at all. This file knows no
// ranks: rank 0 writes, see launch/run_directory.h.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "autograd/parameter.h"
#include "core/context.h"
#include "core/tensor_source.h"

namespace matvlm {

// Where a run stands between two updates. Random numbers are addressed by (seed, sample, layer), so the seed and these
// counters are the whole random state.
struct RunState {
  static constexpr int64_t kFormatVersion = 1;

  std::string kind;     // "distill" or "teach"
  int64_t update = 0;   // updates done; AdamW's step count
  int64_t samples = 0;  // learnt from, over all ranks: the position in the schedule and in the sampler's order
  int64_t epoch = 0;    // the same position as passes over the data ...
  int64_t cursor = 0;   // ... and samples of the current pass
  int64_t seed = 0;
  int64_t ranks = 1;  // of the job that wrote it; another number may go on
  bool evaluated = false;
  double best_score = 0;         // of the best evaluation so far, higher is better; meaningless unless `evaluated`
  int64_t best_update = 0;       // its update
  int64_t evaluated_update = 0;  // that was evaluated last; a signal can come between an update and its evaluation
  std::map<std::string, std::string> fingerprints;  // of what the run depends on: "data.train", "teacher", ...

  bool operator==(const RunState&) const = default;
};

// The state as JSON text and back; `source` heads the errors.
std::string state_text(const RunState& state);
RunState state_from_text(const std::string& text, const std::string& source);

// Writes and commits a checkpoint directory. On failure (disk full, say) nothing of it remains, older ones stay.
void write_checkpoint(Context& ctx, const ParameterStore& parameters, const RunState& state,
                      const std::string& config_yaml, const std::string& directory);

// Reads and verifies state.json: its own checksum, and size and hash of every file. Error for anything that differs.
RunState read_checkpoint_state(const std::string& directory);

// Masters (and compute copies) and moments from a checkpoint. Error that lists every missing, unexpected and misshapen
// tensor.
void load_checkpoint(Context& ctx, ParameterStore& parameters, const std::string& directory);

// Trained tensors of `source` into the masters and compute copies. `allow_more`: names that the store lacks are
// ignored. `wanted`: only the parameters for which it holds, all of which must be there; none: all parameters. Error
// for values that are not finite.
void load_masters(Context& ctx, ParameterStore& parameters, const TensorSource& source, bool allow_more,
                  const std::function<bool(const std::string&)>& wanted = {});

// The checkpoints of a run, in RUN/checkpoints.
class CheckpointFolder {
 public:
  // keep: newest checkpoints that prune() leaves, at least 1.
  CheckpointFolder(const std::string& run_dir, int64_t keep);

  const std::string& path() const { return path_; }
  std::string directory_of(int64_t update) const;  // path()/step-00000123
  std::vector<int64_t> updates() const;            // of all directories, rising, valid or not

  // write_checkpoint under state.update, then prune().
  void save(Context& ctx, const ParameterStore& parameters, const RunState& state,
            const std::string& config_yaml) const;

  struct Found {
    int64_t update = 0;
    RunState state;
  };
  // The newest valid checkpoint; `warn` hears of each newer one that is damaged. None when there are no directories;
  // Error when all are damaged.
  std::optional<Found> find_latest(const std::function<void(const std::string&)>& warn) const;

  // Removes all but the newest `keep` up to `newest`, `best` (where positive), and nothing else. Directories after
  // `newest` are of a future that a resumed run left: they go too.
  void prune(int64_t newest, int64_t best) const;

 private:
  std::string path_;
  int64_t keep_;
};

}  // namespace matvlm
