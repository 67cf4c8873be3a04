// init: a checkpoint made from nothing but a model's sizes.
#include <filesystem>

#include "core/log.h"
#include "launch/commands.h"
#include "launch/export.h"
#include "launch/runtime.h"

namespace matvlm {
namespace {

namespace fs = std::filesystem;

// The folder whose config.json is meant.
std::string folder_of(const std::string& path) {
  if (fs::is_directory(path)) return path;
  if (path.ends_with(".yaml") || path.ends_with(".yml")) {
    const RunConfig config = load_config(path);
    check(config.kind == RunKind::distill, path, ": found the config of a teach run, expected one of a distill run");
    return config.teacher.path;
  }
  check(fs::path(path).filename() == "config.json", "--random: found '", path,
        "', expected a config.json, a folder with one, or a .yaml file");
  const std::string parent = fs::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

}  // namespace

int run_init(const InitArgs& args) {
  const std::string folder = folder_of(args.random);
  const ModelConfig config = read_model_config(folder);
  check(config.mamba.ssm_layers.empty(), folder, ": found Mamba layers, expected a transformer");
  const int64_t shard_bytes =
      args.max_shard_size.empty() ? 0 : parse_byte_size(args.max_shard_size, "--max-shard-size");
  const DType dtype = args.dtype == "f16" ? DType::f16 : parse_precision(args.dtype);
  write_random_model(config, folder, args.out, dtype, static_cast<uint64_t>(args.seed), shard_bytes);
  log_info(cat("wrote random weights to ", args.out));
  return 0;
}

}  // namespace matvlm
