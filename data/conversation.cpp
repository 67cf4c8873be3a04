// Rendering of the template, tokenisation piece by piece around image marks, and the labels of answers.
#include "data/conversation.h"

#include <algorithm>

#include "core/error.h"
#include "data/batch.h"
#include "data/utf8.h"

namespace matvlm {
namespace {

int64_t count_of(std::string_view text, std::string_view part) {
  int64_t count = 0;
  for (size_t at = text.find(part); at != std::string_view::npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

std::string remove_all(const std::string& text, std::string_view part) {
  std::string out;
  size_t at = 0;
  for (size_t hit = text.find(part); hit != std::string::npos; hit = text.find(part, at)) {
    out += text.substr(at, hit - at);
    at = hit + part.size();
  }
  return out + text.substr(at);
}

std::string trimmed(const std::string& text, const ConversationTemplate& form) {
  return form.trim ? std::string(strip(text)) : text;
}

std::string render_question(const std::string& question, const ConversationTemplate& form) {
  if (question.find(kImageMark) == std::string::npos) return trimmed(question, form);
  return std::string(strip(form.image_prefix + without_image_mark(question)));
}

// Text of turn `i` up to and with the assistant_prefix.
std::string render_instruction(const std::vector<Turn>& turns, size_t i, const ConversationTemplate& form) {
  return (i == 0 ? form.system : std::string()) + form.user_prefix + render_question(turns[i].question, form) +
         form.user_suffix + form.assistant_prefix;
}

// Ids of `text`, each piece between image marks on its own.
std::vector<int32_t> encode_with_images(std::string_view text, const Tokenizer& tokenizer) {
  std::vector<int32_t> out;
  for (;;) {
    const size_t hit = text.find(kImageMark);
    const std::vector<int32_t> ids = tokenizer.encode(text.substr(0, hit));
    out.insert(out.end(), ids.begin(), ids.end());
    if (hit == std::string_view::npos) return out;
    out.push_back(kImageToken);
    text.remove_prefix(hit + kImageMark.size());
  }
}

// Appends turn `i` on its own; false when its text cannot be told apart from the template's marks.
bool append_turn(const std::vector<Turn>& turns, size_t i, const ConversationTemplate& form, const Tokenizer& tokenizer,
                 int32_t end_id, EncodedConversation& out) {
  const std::string instruction = render_instruction(turns, i, form);
  const std::string text = instruction + form.answer_prefix + trimmed(turns[i].answer, form);
  const std::string separator = form.user_suffix + form.assistant_prefix + form.answer_prefix;
  const std::string bare = render_instruction({Turn()}, 0, form).substr(i == 0 ? 0 : form.system.size());
  if (count_of(text, separator) != 1 || count_of(text, form.end_token) != count_of(bare, form.end_token)) return false;
  const std::vector<int32_t> prefix = encode_with_images(instruction, tokenizer);
  const std::vector<int32_t> ids = encode_with_images(text, tokenizer);
  if (prefix.size() > ids.size() || !std::equal(prefix.begin(), prefix.end(), ids.begin())) return false;
  out.input_ids.insert(out.input_ids.end(), ids.begin(), ids.end());
  out.input_ids.push_back(end_id);
  out.labels.insert(out.labels.end(), prefix.size(), kIgnoreLabel);
  out.labels.insert(out.labels.end(), ids.begin() + static_cast<int64_t>(prefix.size()), ids.end());
  out.labels.push_back(end_id);
  const std::vector<int32_t> after = tokenizer.encode(form.turn_end);
  out.input_ids.insert(out.input_ids.end(), after.begin(), after.end());
  out.labels.insert(out.labels.end(), after.size(), kIgnoreLabel);
  return true;
}

std::string render_conversation(const std::vector<Turn>& turns, const ConversationTemplate& form) {
  std::string out;
  for (size_t i = 0; i < turns.size(); ++i) {
    out += render_instruction(turns, i, form) + form.answer_prefix + trimmed(turns[i].answer, form) + form.end_token +
           form.turn_end;
  }
  return out;
}

int32_t end_id_of(const ConversationTemplate& form, const Tokenizer& tokenizer) {
  const std::vector<int32_t> ids = tokenizer.encode(form.end_token);
  check(ids.size() == 1, "tokenizer: found ", ids.size(), " tokens for '", form.end_token, "', expected 1: template '",
        form.name, "' ends answers with it");
  return ids.front();
}

}  // namespace

std::string without_image_mark(const std::string& question) {
  return std::string(strip(remove_all(question, kImageMark)));
}

std::string with_image_mark(const std::string& question) {
  return question.find(kImageMark) == std::string::npos ? std::string(kImageMark) + "\n" + question : question;
}

EncodedConversation encode_conversation(const std::vector<Turn>& turns, const ConversationTemplate& form,
                                        const Tokenizer& tokenizer) {
  check(!turns.empty(), "conversation: found no turn, expected at least one question with its answer");
  const int32_t end_id = end_id_of(form, tokenizer);
  EncodedConversation out;
  out.input_ids = tokenizer.prefix_ids();
  out.labels.assign(out.input_ids.size(), kIgnoreLabel);
  for (size_t i = 0; i < turns.size() && out.consistent; ++i) {
    out.consistent = append_turn(turns, i, form, tokenizer, end_id, out);
  }
  std::vector<int32_t> whole = tokenizer.prefix_ids();
  const std::vector<int32_t> ids = encode_with_images(render_conversation(turns, form), tokenizer);
  whole.insert(whole.end(), ids.begin(), ids.end());
  out.consistent = out.consistent && whole == out.input_ids;
  if (!out.consistent) {
    out.labels.assign(whole.size(), kIgnoreLabel);
    out.input_ids = std::move(whole);
  }
  return out;
}

std::vector<int32_t> encode_prompt(const std::vector<Turn>& turns, const ConversationTemplate& form,
                                   const Tokenizer& tokenizer) {
  check(!turns.empty(), "conversation: found no turn, expected at least one question");
  const std::vector<Turn> history(turns.begin(), turns.end() - 1);
  const std::string text = render_conversation(history, form) + render_instruction(turns, turns.size() - 1, form);
  std::vector<int32_t> out = tokenizer.prefix_ids();
  const std::vector<int32_t> ids = encode_with_images(text, tokenizer);
  out.insert(out.end(), ids.begin(), ids.end());
  return out;
}

void cut_conversation(EncodedConversation& conversation, int64_t max_length) {
  check(max_length > 0, "conversation: found max_length ", max_length, ", expected more than 0");
  const size_t length = std::min(conversation.input_ids.size(), static_cast<size_t>(max_length));
  conversation.input_ids.resize(length);
  conversation.labels.resize(length);
}

int64_t count_labels_after_splice(const EncodedConversation& conversation, int64_t tokens_per_image,
                                  int64_t max_length) {
  int64_t position = 0;  // in the spliced row
  int64_t count = 0;
  for (size_t i = 0; i < conversation.input_ids.size(); ++i) {
    if (conversation.labels[i] != kIgnoreLabel && position > 0 && position < max_length) ++count;
    position += conversation.input_ids[i] == kImageToken ? tokens_per_image : 1;
  }
  return count;
}

}  // namespace matvlm
