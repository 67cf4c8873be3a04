// Writing LLaVA data sets: picture files and the JSON of conversations. Used by the data sets that this program makes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/image.h"

namespace matvlm {

struct LlavaTurn {
  std::string category;  // kind of question, for results by kind; written as an extra array beside the conversation
  std::string question;
  std::string answer;
};

struct LlavaSample {
  std::string id;
  std::string image;  // path below the image folder, empty for a text-only sample
  std::vector<LlavaTurn> turns;
};

// [{"id", "image", "conversations": [{"from": "human", "value": "<image>\nQ"}, {"from": "gpt", "value": "A"}, ...],
// "categories": [one per human turn]}, ...], one sample a line. The file appears complete or not at all.
void write_llava_json(const std::string& path, const std::vector<LlavaSample>& samples);

// Writes a PNG. An Error names the path and the system's reason.
void write_picture(const std::string& path, const Image& image);

// Makes DIR and DIR/images. Error when something else than a folder is in the way.
void make_dataset_folders(const std::string& dir);

// 64 well-mixed bits of a text: the same on every machine and in every version, so that data sets stay the same.
uint64_t stable_hash(std::string_view text, uint64_t seed);

}  // namespace matvlm
