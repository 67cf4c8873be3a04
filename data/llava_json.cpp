// Reading and checking of LLaVA JSON, one sample at a time.
#include "data/llava_json.h"

#include <filesystem>

#include "core/file.h"
#include "data/utf8.h"

namespace matvlm {
namespace {

namespace fs = std::filesystem;

template <class... Args>
[[noreturn]] void reject(const char* reason, const Args&... message) {
  throw SampleError(reason, cat(message...));
}

int64_t marks_in(const std::string& text) {
  int64_t count = 0;
  for (size_t at = text.find(kImageMark); at != std::string::npos; at = text.find(kImageMark, at + 1)) ++count;
  return count;
}

std::string read_id(const Json& entry) {
  const Json id = entry.at("id");
  return id.kind() == Json::Kind::integer ? std::to_string(id.as_int()) : id.as_string();
}

std::string read_image(const Json& entry, const std::string& place) {
  if (!entry.has("image") || entry.at("image").is_null()) return "";
  const Json image = entry.at("image");
  if (image.is_array()) reject("two images", place, "found ", image.size(), " pictures in 'image', expected one path");
  if (image.as_string().empty()) reject("malformed", place, "found an empty 'image', expected a path or no key");
  return image.as_string();
}

void read_categories(const Json& entry, std::vector<Turn>& turns, const std::string& place) {
  for (Turn& turn : turns) turn.category = entry.get("category", "");
  if (!entry.has("categories")) return;
  const Json list = entry.at("categories");
  if (!list.is_array() || list.size() != static_cast<int64_t>(turns.size())) {
    reject("malformed", place, "found 'categories' ", list.dump().substr(0, 80), ", expected an array of ",
           turns.size(), ", one for each question");
  }
  for (size_t i = 0; i < turns.size(); ++i) turns[i].category = list.at(static_cast<int64_t>(i)).as_string();
}

void check_marks(const std::vector<Turn>& turns, const std::string& image, const std::string& place) {
  int64_t marks = 0;
  for (const Turn& turn : turns) {
    marks += marks_in(turn.question);
    if (marks_in(turn.answer) > 0)
      reject("image mark in an answer", place, "found <image> in an answer, expected text");
  }
  if (marks > 1) reject("two images", place, "found ", marks, " <image> marks, expected one");
  if (marks == 1 && image.empty()) reject("image mark without a picture", place, "found <image>, but no key 'image'");
  if (marks == 0 && !image.empty()) {
    reject("picture without an image mark", place, "found the picture '", image, "', but no <image> in a question");
  }
}

}  // namespace

LlavaFile::LlavaFile(const std::string& json_path, const std::string& image_folder)
    : json_path_(json_path), image_folder_(image_folder), document_(Json::read_file(json_path)) {
  check(document_.is_array(), json_path, ": found no array, expected an array of samples");
  size_ = document_.size();
  check(size_ > 0, json_path, ": found no samples, expected at least one");
}

std::string LlavaFile::place(int64_t index, const std::string& id) const {
  return cat(json_path_, ": sample ", index, id.empty() ? "" : cat(" (id '", id, "')"), ": ");
}

ConversationSample LlavaFile::sample(int64_t index) const {
  const Json entry = document_.at(index);
  ConversationSample out;
  out.index = index;
  try {
    out.id = read_id(entry);
    const std::string where = place(index, out.id);
    out.image = read_image(entry, where);
    out.turns = read_turns(entry, where);
    read_categories(entry, out.turns, where);
    check_marks(out.turns, out.image, where);
    if (!out.image.empty()) out.image_path = resolve_image(out.image, where);
  } catch (const SampleError&) {
    throw;
  } catch (const Error& error) {  // of Json: "file: key ...", without the sample's id
    std::string message = error.what();
    if (message.starts_with(json_path_ + ": ")) message.erase(0, json_path_.size() + 2);
    throw SampleError("malformed", place(index, out.id) + message);
  }
  return out;
}

std::vector<Turn> LlavaFile::read_turns(const Json& entry, const std::string& place) const {
  const Json list = entry.at("conversations");
  std::vector<Turn> turns;
  bool expect_question = true;
  for (int64_t i = 0; i < list.size(); ++i) {
    const Json part = list.at(i);
    const std::string from = part.at("from").as_string();
    const std::string value = part.at("value").as_string();
    if (from != "human" && from != "gpt") {
      reject("unknown speaker", place, "found from '", from, "' in conversations[", i, "], expected 'human' or 'gpt'");
    }
    if (i == 0 && from == "gpt") continue;
    if ((from == "human") != expect_question) {
      reject("turns do not alternate", place, "found from '", from, "' in conversations[", i, "], expected '",
             expect_question ? "human" : "gpt", "'");
    }
    if (expect_question) {
      turns.push_back({value, "", ""});
    } else {
      if (strip(value).empty()) reject("empty answer", place, "found an empty answer in conversations[", i, "]");
      turns.back().answer = value;
    }
    expect_question = !expect_question;
  }
  if (turns.empty()) reject("no question", place, "found no question in 'conversations', expected at least one");
  if (!expect_question) reject("turns do not alternate", place, "found a last question without an answer");
  return turns;
}

std::string LlavaFile::resolve_image(const std::string& image, const std::string& place) const {
  if (image_folder_.empty()) {
    reject("picture without a folder", place, "found the picture '", image, "', but no picture folder was given");
  }
  const fs::path relative(image);
  const fs::path path = fs::path(image_folder_) / relative;
  bool climbs = relative.is_absolute() || image.find('\0') != std::string::npos;
  for (const fs::path& part : relative) climbs = climbs || part == "..";
  if (climbs || !is_inside(image_folder_, path.string())) {
    reject("picture outside the folder", place, "found the picture path '", image, "', expected one inside ",
           image_folder_);
  }
  std::error_code error;
  if (!fs::is_regular_file(path, error)) {
    reject("missing picture", place, "found no picture '", path.string(), "', expected a file");
  }
  return path.string();
}

}  // namespace matvlm
