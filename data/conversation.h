// Conversations to token ids and labels: the text template of a model family, the image mark, and which tokens an
// answer covers (method: LLaVA's supervised format as TinyLLaVA's phi template writes it).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "data/tokenizer.h"

namespace matvlm {

inline constexpr std::string_view kImageMark = "<image>";

// One question with its answer. A question may hold the image mark anywhere.
struct Turn {
  std::string question;
  std::string answer;
  std::string category;  // groups evaluation results; may be empty
};

// A conversation's text is, turn by turn:
//   system (first turn only) user_prefix question user_suffix assistant_prefix answer_prefix answer end_token turn_end
// An answer and its end token are learnt; an answer_prefix that a tokenizer joins to the answer is part of it.
struct ConversationTemplate {
  std::string name;
  std::string system;  // with its own marks
  std::string user_prefix;
  std::string user_suffix;
  std::string assistant_prefix;
  std::string answer_prefix = " ";
  std::string end_token;  // one token of the tokenizer
  std::string turn_end;
  std::string image_prefix =
      "<image>\n";    // stands before the rest of a question that had an image mark; holds the mark
  bool trim = false;  // questions and answers without white space at their ends
  bool operator==(const ConversationTemplate&) const = default;
};

// "phi" (as TinyLLaVA writes it), "llama" (Llama 3's headers), "chatml" (<|im_start|>role). Error names them.
const ConversationTemplate& find_template(const std::string& name);

// A template as a JSON object, a key for each member, and back. Error on unknown keys and on what cannot work: an empty
// end_token, an assistant_prefix that cannot be told from the question, an image_prefix without the mark.
Json template_json(const ConversationTemplate& form);
ConversationTemplate template_from_json(const Json& json);

struct EncodedConversation {
  std::vector<int32_t> input_ids;  // kImageToken where the image goes
  std::vector<int32_t> labels;     // the id where the token belongs to an answer or its end token, else kIgnoreLabel
  // False when the turns' ids, put together, are not those of the whole text (a text holds the template's own marks,
  // say): such a sample must not be learnt from. All labels are kIgnoreLabel then.
  bool consistent = true;
};

// Error when the tokenizer has no token `end_token`, or when there is no turn.
EncodedConversation encode_conversation(const std::vector<Turn>& turns, const ConversationTemplate& form,
                                        const Tokenizer& tokenizer);

// Ids up to and with the assistant_prefix of the last turn, whose answer is not looked at: what a model continues.
std::vector<int32_t> encode_prompt(const std::vector<Turn>& turns, const ConversationTemplate& form,
                                   const Tokenizer& tokenizer);

// The same question with an image mark: as it is when it has one, else with the mark in front.
std::string with_image_mark(const std::string& question);
std::string without_image_mark(const std::string& question);

// Cuts ids and labels to max_length ids (the image mark counts as one).
void cut_conversation(EncodedConversation& conversation, int64_t max_length);

// Number of labels that still count once the image mark has become `tokens_per_image` positions and the row is cut to
// max_length. The first position is never predicted and does not count.
int64_t count_labels_after_splice(const EncodedConversation& conversation, int64_t tokens_per_image,
                                  int64_t max_length);

}  // namespace matvlm
