// The questions of a pack, one by one, for exact-match evaluation: the prompt, the picture, the expected answer and the
// kind of question.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/tokenizer.h"

namespace matvlm {

struct EvalQuestion {
  int64_t sample = 0;
  int64_t turn = 0;  // within the sample
  std::string sample_id;
  std::string question;  // as in the JSON
  std::string answer;    // expected
  std::string category;
  std::vector<int32_t> prompt_ids;  // up to where the model answers; kImageToken where the picture goes
  int64_t image = -1;               // of Dataset::image_bytes; -1: the prompt has no picture
};

enum class EvalHistory {
  previous,  // earlier turns of the sample stand before the question, with their expected answers, as in training
  none,      // every question stands alone; the picture's mark is put in front of it
};

class EvalSet {
 public:
  // Both must outlive the object. Error when the pack was made with another tokenizer or holds plain texts.
  EvalSet(const Dataset& dataset, const Tokenizer& tokenizer, EvalHistory history);

  int64_t size() const { return static_cast<int64_t>(places_.size()); }
  EvalQuestion question(int64_t index) const;

 private:
  struct Place {
    int64_t sample;
    int64_t turn;
  };

  const Dataset& dataset_;
  const Tokenizer& tokenizer_;
  const ConversationTemplate& form_;
  EvalHistory history_;
  std::vector<Place> places_;
};

// Whether a generated answer counts as the expected one: equal without white space at the ends.
bool exact_match(const std::string& generated, const std::string& expected);

}  // namespace matvlm
