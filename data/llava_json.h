// LLaVA's training format: a JSON array of {id, image, conversations: [{from: human|gpt, value}]}. `image` is a path
// inside the picture folder, missing or null for a text-only sample. Our addition, which groups evaluation results:
// `categories`, an array with one string for each question, or `category`, one string for the whole sample.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/json.h"
#include "data/conversation.h"

namespace matvlm {

// A sample that cannot be used. what() names file, index and id; reason() is short and the same for every sample with
// this fault, for counting.
class SampleError : public Error {
 public:
  SampleError(std::string reason, const std::string& message) : Error(message), reason_(std::move(reason)) {}
  const std::string& reason() const { return reason_; }

 private:
  std::string reason_;
};

struct ConversationSample {
  int64_t index = 0;
  std::string id;
  std::string image;       // as in the file; empty = text-only
  std::string image_path;  // of the existing file inside the picture folder
  std::vector<Turn> turns;
};

class LlavaFile {
 public:
  // Error when the file cannot be read, is no JSON, or holds no array of samples. Without a picture folder (an empty
  // name) a sample with a picture is a SampleError.
  LlavaFile(const std::string& json_path, const std::string& image_folder);

  int64_t size() const { return size_; }

  // SampleError: missing or mistyped key, unknown `from`, questions and answers that do not alternate, an empty answer,
  // an image mark without a picture, a picture without a mark, two pictures or marks, a mark in an answer, a picture
  // that is missing or outside the folder (absolute, through `..` or a symbolic link). A first turn of gpt, which
  // answers no question, is left out, as published trainers do.
  ConversationSample sample(int64_t index) const;

  // "file: sample 3 (id 'x'): "
  std::string place(int64_t index, const std::string& id) const;

 private:
  std::vector<Turn> read_turns(const Json& entry, const std::string& place) const;
  std::string resolve_image(const std::string& image, const std::string& place) const;

  std::string json_path_;
  std::string image_folder_;
  Json document_;
  int64_t size_ = 0;
};

}  // namespace matvlm
