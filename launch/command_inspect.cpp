// matvlm inspect: what files of this program hold, as text on stdout.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>

#include "core/error.h"
#include "core/tensor_source.h"
#include "data/batch.h"
#include "data/dataset.h"
#include "launch/checkpoint.h"
#include "launch/cli.h"
#include "launch/commands.h"
#include "launch/inspect_tensors.h"
#include "launch/metrics.h"

namespace matvlm {
namespace {

namespace fs = std::filesystem;

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

// A checkpoint of a run holds two files of tensors; the model's are meant.
TensorSource tensors_at(const std::string& path) {
  return TensorSource::open(fs::exists(path + "/state.json") ? path + "/model.safetensors" : path);
}

}  // namespace

int run_inspect(const InspectArgs& args) {
  const std::string& path = args.path;
  check(fs::exists(path), path, ": found nothing, expected a file or folder");
  if (!args.compare.empty()) {
    const bool same = compare_tensors(std::cout, tensors_at(path), tensors_at(args.compare));
    std::cout << std::flush;
    return same ? kExitOk : kExitFailure;
  }
  if (fs::is_directory(path + "/checkpoints")) {
    print_run(path);
  } else if (fs::exists(path + "/state.json")) {
    print_state(read_checkpoint_state(path));
    print_tensors(std::cout, TensorSource::open(path + "/model.safetensors"), args.stats);
  } else if (is_hdf5(path)) {
    print_pack(path, args.stats);
  } else {
    print_tensors(std::cout, TensorSource::open(path), args.stats);
  }
  std::cout << std::flush;
  return kExitOk;
}

}  // namespace matvlm
