// Prompts are made when a question is asked for, so that a large pack takes no memory.
#include "data/eval_set.h"

#include <algorithm>

#include "core/error.h"
#include "data/batch.h"
#include "data/utf8.h"

namespace matvlm {

EvalSet::EvalSet(const Dataset& dataset, const Tokenizer& tokenizer, EvalHistory history)
    : dataset_(dataset), tokenizer_(tokenizer), form_(dataset.form()), history_(history) {
  check(dataset.info().tokenizer_sha256 == tokenizer.sha256(), dataset.path(), ": found tokenizer_sha256 ",
        dataset.info().tokenizer_sha256, ", expected that of the model's tokenizer, ", tokenizer.sha256());
  for (int64_t sample = 0; sample < dataset.size(); ++sample) {
    for (int64_t turn = 0; turn < dataset.n_turns(sample); ++turn) places_.push_back({sample, turn});
  }
}

EvalQuestion EvalSet::question(int64_t index) const {
  check(index >= 0 && index < size(), dataset_.path(), ": found question index ", index, ", expected 0..", size() - 1);
  const Place place = places_[static_cast<size_t>(index)];
  std::vector<Turn> turns = dataset_.turns(place.sample);
  turns.resize(static_cast<size_t>(place.turn + 1));
  EvalQuestion out;
  out.sample = place.sample;
  out.turn = place.turn;
  out.sample_id = dataset_.sample_id(place.sample);
  out.question = turns.back().question;
  out.answer = turns.back().answer;
  out.category = turns.back().category;
  const int64_t image = dataset_.image_of_sample(place.sample);
  if (history_ == EvalHistory::none) {
    turns.erase(turns.begin(), turns.end() - 1);
    if (image >= 0) turns.back().question = with_image_mark(turns.back().question);
  }
  // The picture itself may have been cut off when the sample was packed: then the mark goes, too.
  if (image < 0) {
    for (Turn& turn : turns) {
      if (turn.question.find(kImageMark) != std::string::npos) turn.question = without_image_mark(turn.question);
    }
  }
  out.prompt_ids = encode_prompt(turns, form_, tokenizer_);
  const bool has_mark = std::find(out.prompt_ids.begin(), out.prompt_ids.end(), kImageToken) != out.prompt_ids.end();
  out.image = has_mark ? image : -1;
  return out;
}

bool exact_match(const std::string& generated, const std::string& expected) {
  return strip(generated) == strip(expected);
}

}  // namespace matvlm
