// Plain texts to learn from, one after the other: a file of UTF-8 text is one document, a .jsonl file holds one
// {"text": "..."} a line.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace matvlm {

struct TextDocument {
  std::string id;     // file, or file:line
  std::string text;   // not empty, valid UTF-8
  std::string place;  // heads messages: "file: line 3: "
};

struct TextProblems {
  bool skip = false;  // leave bad documents out and count them, instead of throwing SampleError
  std::function<void(const std::string& reason, const std::string& message)> report;
};

// Calls `use` for every document in the order of the files. Empty ones are left out. SampleError (data/llava_json.h)
// for a line that is no JSON object, a missing or mistyped `text`, text that is not UTF-8. `progress` gets bytes read
// and bytes of all files. Error when a file cannot be read.
void read_texts(const std::vector<std::string>& paths, const TextProblems& problems,
                const std::function<void(const TextDocument&)>& use,
                const std::function<void(int64_t done, int64_t total)>& progress = {});

}  // namespace matvlm
