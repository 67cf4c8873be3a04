// Models written for other programs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/dtype.h"
#include "launch/run_model.h"

namespace matvlm {

// matvlm: the student under the names and with the mamba_config.json of the published MaTVLM classes. hf_teacher: the
// frozen teacher as it was loaded, in one layout.
enum class ExportFormat { matvlm, hf_teacher };

struct ExportOptions {
  ExportFrom from = ExportFrom::best;
  int64_t update = 0;
  ExportFormat format = ExportFormat::matvlm;
  std::optional<DType> dtype;  // f32, bf16 or f16; none: f32, and for hf_teacher the dtypes of the teacher's files
  int64_t shard_bytes = 0;     // largest file of tensors, one tensor at least; 0 = one file
};

// Writes the model of `path` (a run, or a folder with a model) to `out`, complete or not at all: config.json,
// tokenizer.json, preprocessor_config.json, model.safetensors or shards with model.safetensors.index.json, for a
// student mamba_config.json. What the teacher's files hold beyond the model (the tower's last block, say) is written as
// it is there. Error for values that a narrower dtype cannot hold, and where `out` holds files that no export writes.
void export_model(const std::string& path, const std::string& out, const ExportOptions& options);

// A model of `config` with random weights (init_random_tensor), written as export_model does, with the tokenizer.json
// of `folder` where there is one.
void write_random_model(const ModelConfig& config, const std::string& folder, const std::string& out, DType dtype,
                        uint64_t seed, int64_t shard_bytes);

// "5GB", "500MB", "2GiB", "4096": bytes. Error headed by `what`.
int64_t parse_byte_size(const std::string& text, const std::string& what);

}  // namespace matvlm
