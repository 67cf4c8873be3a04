// LLaVA JSON and picture files.
#include "data/image_dataset.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"

namespace matvlm {
namespace {

Json conversation_part(const char* from, const std::string& value) {
  Json part = Json::object();
  part.set("from", from).set("value", std::string_view(value));
  return part;
}

Json sample_json(const LlavaSample& sample) {
  Json conversations = Json::array();
  Json categories = Json::array();
  for (const LlavaTurn& turn : sample.turns) {
    const bool image_here = !sample.image.empty() && conversations.size() == 0;
    conversations.push(conversation_part("human", (image_here ? "<image>\n" : "") + turn.question));
    conversations.push(conversation_part("gpt", turn.answer));
    categories.push(Json::of(std::string_view(turn.category)));
  }
  Json json = Json::object();
  json.set("id", std::string_view(sample.id));
  if (!sample.image.empty()) json.set("image", std::string_view(sample.image));
  json.set("conversations", conversations).set("categories", categories);
  return json;
}

}  // namespace

void write_llava_json(const std::string& path, const std::vector<LlavaSample>& samples) {
  AtomicFile file(path);
  file.append("[");
  const char* separator = "\n";
  for (const LlavaSample& sample : samples) {
    check(!sample.turns.empty(), path, ": sample '", sample.id, "' has no question");
    file.append(separator + sample_json(sample).dump());
    separator = ",\n";
  }
  file.append("\n]\n");
  file.commit();
}

void write_picture(const std::string& path, const Image& image) {
  const std::vector<uint8_t> bytes = encode_png(image);
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  file.close();
  check(!file.fail(), path, ": cannot write the picture: ", std::strerror(errno));
}

void make_dataset_folders(const std::string& dir) {
  check(!dir.empty(), "no folder given for the data set; expected --out DIR");
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(dir) / "images", error);
  check(!error, dir, ": cannot make the folder for the data set: ", error.message());
}

uint64_t stable_hash(std::string_view text, uint64_t seed) {
  // FNV-1a over the bytes, then the finaliser of splitmix64, because FNV's high bits alone are weak.
  uint64_t hash = 0xCBF29CE484222325ULL ^ (seed * 0x9E3779B97F4A7C15ULL);
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001B3ULL;
  hash = (hash ^ (hash >> 30)) * 0xBF58476D1CE4E5B9ULL;
  hash = (hash ^ (hash >> 27)) * 0x94D049BB133111EBULL;
  return hash ^ (hash >> 31);
}

}  // namespace matvlm
