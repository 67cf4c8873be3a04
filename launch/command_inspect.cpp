// matvlm inspect: what files of this program hold, as text on stdout.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>

#include "core/error.h"
#include "core/safetensors.h"
#include "core/tensor.h"
#include "data/batch.h"
#include "data/dataset.h"
#include "launch/checkpoint.h"
#include "launch/cli.h"
#include "launch/commands.h"
#include "launch/metrics.h"

namespace matvlm {
namespace {

namespace fs = std::filesystem;

// Smallest, largest, mean and norm of the finite values, and how many are not finite.
std::string value_stats(const std::vector<float>& values) {
  double low = 0;
  double high = 0;
  double sum = 0;
  double squares = 0;
  int64_t finite = 0;
  for (const float value : values) {
    const double x = value;
    if (!std::isfinite(x)) continue;
    low = finite == 0 ? x : std::min(low, x);
    high = finite == 0 ? x : std::max(high, x);
    sum += x;
    squares += x * x;
    ++finite;
  }
  char text[160];
  std::snprintf(text, sizeof(text), "  min %.4g  max %.4g  mean %.4g  norm %.6g", low, high,
                finite > 0 ? sum / static_cast<double>(finite) : 0.0, std::sqrt(squares));
  const int64_t bad = static_cast<int64_t>(values.size()) - finite;
  return cat(text, bad > 0 ? cat("  not finite ", bad) : "");
}

bool is_float(const SafetensorsInfo& info) {
  return info.dtype && (*info.dtype == DType::f32 || *info.dtype == DType::bf16 || *info.dtype == DType::f16 ||
                        *info.dtype == DType::f64);
}

void print_tensors(const TensorSource& source, bool stats) {
  size_t width = 0;
  for (const std::string& name : source.names()) width = std::max(width, name.size());
  int64_t values = 0;
  int64_t bytes = 0;
  for (const std::string& name : source.names()) {
    const SafetensorsInfo& info = source.info(name);
    std::cout << std::left << std::setw(static_cast<int>(width) + 2) << name << std::setw(6) << info.type
              << shape_string(info.shape);
    if (stats && is_float(info)) std::cout << value_stats(source.read_floats(name));
    std::cout << "\n";
    values += info.numel;
    bytes += info.end - info.begin;
  }
  for (const auto& [key, value] : source.metadata()) std::cout << "metadata " << key << ": " << value << "\n";
  std::cout << source.names().size() << " tensors, " << values << " values, " << memory_text(bytes) << "\n";
}

void print_state(const RunState& state) {
  std::cout << "update " << state.update << ", " << state.samples << " samples, written by " << state.ranks
            << (state.ranks == 1 ? " rank" : " ranks") << ", " << state.kind << ", seed " << state.seed << "\n";
  if (state.evaluated) std::cout << "best score " << state.best_score << " at update " << state.best_update << "\n";
  for (const auto& [name, value] : state.fingerprints) std::cout << "fingerprint " << name << ": " << value << "\n";
}

void print_run(const std::string& path) {
  const CheckpointFolder folder(path, 1);
  std::cout << "run with " << folder.updates().size() << " checkpoints\n";
  for (const int64_t update : folder.updates()) {
    std::cout << folder.directory_of(update) << "\n";
    try {
      print_state(read_checkpoint_state(folder.directory_of(update)));
    } catch (const Error& damage) {
      std::cout << "damaged: " << damage.what() << "\n";
    }
  }
}

void print_pack(const std::string& path, bool stats) {
  const Dataset pack(path);
  const PackInfo& info = pack.info();
  std::cout << "pack, version " << info.version << ": " << pack.size() << " samples, " << pack.n_tokens() << " tokens, "
            << pack.n_images() << " pictures\n";
  std::cout << "template " << info.template_name << ", vocabulary " << info.vocab_size << ", tokenizer "
            << info.tokenizer_sha256 << "\n";
  std::cout << "tokens per picture " << info.tokens_per_image << ", cut to " << info.max_length << " positions\n";
  for (const auto& [reason, count] : info.skipped) std::cout << "skipped " << count << ": " << reason << "\n";
  if (!stats || pack.size() == 0) return;
  int64_t shortest = pack.length(0);
  int64_t longest = 0;
  int64_t text_only = 0;
  int64_t labels = 0;
  for (int64_t i = 0; i < pack.size(); ++i) {
    shortest = std::min(shortest, pack.length(i));
    longest = std::max(longest, pack.length(i));
    text_only += pack.image_of_sample(i) < 0 ? 1 : 0;
    const std::vector<int32_t> of_sample = pack.sample(i).labels;
    labels += std::count_if(of_sample.begin(), of_sample.end(), [](int32_t label) { return label != kIgnoreLabel; });
  }
  std::cout << "ids of a sample " << shortest << " to " << longest << ", " << text_only << " samples text only, "
            << labels << " labels\n";
}

bool is_hdf5(const std::string& path) {
  static constexpr char kSignature[] = "\x89HDF\r\n\x1a\n";
  char start[8] = {};
  std::ifstream file(path, std::ios::binary);
  file.read(start, sizeof(start));
  return file.gcount() == sizeof(start) && std::equal(start, start + sizeof(start), kSignature);
}

}  // namespace

int run_inspect(const InspectArgs& args) {
  const std::string& path = args.path;
  check(fs::exists(path), path, ": found nothing, expected a file or folder");
  if (fs::is_directory(path + "/checkpoints")) {
    print_run(path);
  } else if (fs::exists(path + "/state.json")) {
    print_state(read_checkpoint_state(path));
    print_tensors(TensorSource::open(path + "/model.safetensors"), args.stats);
  } else if (is_hdf5(path)) {
    print_pack(path, args.stats);
  } else {
    print_tensors(TensorSource::open(path), args.stats);
  }
  std::cout << std::flush;
  return kExitOk;
}

}  // namespace matvlm
