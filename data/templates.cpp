// The conversation templates that models were trained with, and templates as JSON.
#include <array>

#include "core/error.h"
#include "data/conversation.h"

namespace matvlm {
namespace {

// The sentence that LLaVA v1 checkpoints were trained with; a model sees it in front of every conversation.
constexpr const char* kPhiSystem =
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. ";

ConversationTemplate phi_template() {
  ConversationTemplate t;
  t.name = "phi";
  t.system = kPhiSystem;
  t.user_prefix = "USER: ";
  t.user_suffix = " ";
  t.assistant_prefix = "ASSISTANT:";
  t.end_token = "<|endoftext|>";
  return t;
}

// Llama 3: headers around the roles; texts are trimmed. The begin-of-text token is the tokenizer's own to put.
ConversationTemplate llama_template() {
  ConversationTemplate t;
  t.name = "llama";
  t.user_prefix = "<|start_header_id|>user<|end_header_id|>\n\n";
  t.user_suffix = "<|eot_id|>";
  t.assistant_prefix = "<|start_header_id|>assistant<|end_header_id|>\n\n";
  t.answer_prefix.clear();
  t.end_token = "<|eot_id|>";
  t.trim = true;
  return t;
}

ConversationTemplate chatml_template() {
  ConversationTemplate t;
  t.name = "chatml";
  t.system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n";
  t.user_prefix = "<|im_start|>user\n";
  t.user_suffix = "<|im_end|>\n";
  t.assistant_prefix = "<|im_start|>assistant\n";
  t.answer_prefix.clear();
  t.end_token = "<|im_end|>";
  t.turn_end = "\n";
  return t;
}

struct TextKey {
  const char* name;
  std::string ConversationTemplate::*member;
};
constexpr std::array<TextKey, 9> kTextKeys = {{{"name", &ConversationTemplate::name},
                                               {"system", &ConversationTemplate::system},
                                               {"user_prefix", &ConversationTemplate::user_prefix},
                                               {"user_suffix", &ConversationTemplate::user_suffix},
                                               {"assistant_prefix", &ConversationTemplate::assistant_prefix},
                                               {"answer_prefix", &ConversationTemplate::answer_prefix},
                                               {"end_token", &ConversationTemplate::end_token},
                                               {"turn_end", &ConversationTemplate::turn_end},
                                               {"image_prefix", &ConversationTemplate::image_prefix}}};

}  // namespace

const ConversationTemplate& find_template(const std::string& name) {
  static const std::array<ConversationTemplate, 3> known = {phi_template(), llama_template(), chatml_template()};
  for (const ConversationTemplate& form : known) {
    if (form.name == name) return form;
  }
  fail("template: found '", name, "', expected 'phi', 'llama' or 'chatml'");
}

Json template_json(const ConversationTemplate& form) {
  Json json = Json::object();
  for (const TextKey& key : kTextKeys) json.set(key.name, form.*key.member);
  return json.set("trim", form.trim);
}

ConversationTemplate template_from_json(const Json& json) {
  check(json.is_object(), json.where(), ": found ", json.dump().substr(0, 80), ", expected the keys of a template");
  ConversationTemplate form;
  for (const std::string& name : json.keys()) {
    if (name == "trim") {
      form.trim = json.at(name).as_bool();
      continue;
    }
    const TextKey* found = nullptr;
    for (const TextKey& key : kTextKeys) found = name == key.name ? &key : found;
    check(found != nullptr, json.at(name).where(), ": found an unknown key of a template, expected name, system, ",
          "user_prefix, user_suffix, assistant_prefix, answer_prefix, end_token, turn_end, image_prefix or trim");
    form.*found->member = json.at(name).as_string();
  }
  check(!form.name.empty() && form.name != "text", json.where(), ": key 'name': found '", form.name,
        "', expected a name other than 'text'");
  check(!form.end_token.empty(), json.where(), ": key 'end_token': found nothing, expected one token");
  check(!(form.user_suffix + form.assistant_prefix).empty(), json.where(),
        ": key 'assistant_prefix': found nothing, expected what stands before an answer");
  check(form.image_prefix.find(kImageMark) != std::string::npos, json.where(), ": key 'image_prefix': found '",
        form.image_prefix, "', expected a text with ", kImageMark);
  return form;
}

}  // namespace matvlm
