// A folder with all that a run needs, made by the program itself within seconds: generated data, its tokenizer and
// packs, a teacher taught for a few updates and exported, and configs for teaching and distilling.
#pragma once

#include <string>
#include <vector>

namespace matvlm::testing {

// In `folder`: data/{train,heldout}.json, data/images/, tokenizer.json, train.h5, heldout.h5, teach.yaml, taught/ (the
// run), teacher/ (its export), distill.yaml. Paths in the configs are relative to `folder`. Error when a step fails.
void make_tiny_job(const std::string& folder);

// The model of tiny jobs: 4 layers of width 32, 4 heads over 2 key/value heads, 400 tokens, 4 positions a picture.
inline constexpr int kTinyVocabulary = 400;
inline constexpr int kTinyTokensPerImage = 4;

// Words that pack data/`name`.json into `name`.h5.
std::vector<std::string> tiny_pack_words(const std::string& name);

// What a run left: its newest checkpoint, and metrics.jsonl without what depends on the clock.
struct RunTrace {
  std::string checkpoint;            // its directory's name, empty when there is none
  std::string model, optimizer;      // bytes of the files
  std::vector<std::string> metrics;  // lines with step, samples, losses, gradient norm, learning rate
};
RunTrace trace_of(const std::string& run);

// Last step in RUN/metrics.jsonl, 0 when there is none. May be called while the run goes on.
long last_step(const std::string& run);

}  // namespace matvlm::testing
