// A part is there once its place file is: the arrays come first, each file complete or not at all.
#include "data/pack_parts.h"

#include <cstdio>
#include <filesystem>

#include "core/error.h"
#include "core/json.h"
#include "core/log.h"

namespace matvlm {
namespace {

namespace fs = std::filesystem;

struct Counter {
  const char* key;
  int64_t PackReport::*member;
};
constexpr Counter kCounters[] = {
    {"samples", &PackReport::samples},        {"text_only", &PackReport::text_only},
    {"images", &PackReport::images},          {"image_bytes", &PackReport::image_bytes},
    {"tokens", &PackReport::tokens},          {"counted_labels", &PackReport::counted_labels},
    {"cut_samples", &PackReport::cut_samples}};

std::string place_text(const PackPlace& place, const std::string& key) {
  Json json = Json::object();
  json.set("key", key).set("index", place.index).set("position", place.position);
  for (const Counter& counter : kCounters) json.set(counter.key, place.report.*counter.member);
  Json skipped = Json::object();
  for (const auto& [reason, count] : place.report.skipped) skipped.set(reason, count);
  Json messages = Json::array();
  for (const std::string& message : place.report.messages) messages.push(Json::of(std::string_view(message)));
  return json.set("skipped", skipped).set("messages", messages).dump(1) + "\n";
}

PackPlace place_from(const Json& json) {
  PackPlace place;
  place.index = json.at("index").as_int();
  place.position = json.at("position").as_int();
  for (const Counter& counter : kCounters) place.report.*counter.member = json.at(counter.key).as_int();
  const Json skipped = json.at("skipped");
  for (const std::string& reason : skipped.keys()) place.report.skipped[reason] = skipped.at(reason).as_int();
  const Json messages = json.at("messages");
  for (int64_t i = 0; i < messages.size(); ++i) place.report.messages.push_back(messages.at(i).as_string());
  place.report.resumed_samples = place.index + 1;
  return place;
}

std::string numbered(const std::string& folder, int64_t part, const char* extension) {
  char name[48];
  std::snprintf(name, sizeof(name), "/part-%06lld.%s", static_cast<long long>(part), extension);
  return folder + name;
}

}  // namespace

std::string PackParts::file(int64_t part) const { return numbered(folder_, part, "h5"); }
std::string PackParts::place_file(int64_t part) const { return numbered(folder_, part, "json"); }
std::string PackParts::skipped_file(int64_t part) const { return numbered(folder_, part, "skipped.jsonl"); }

PackParts::PackParts(const std::string& output, const std::string& key) : folder_(output + ".parts"), key_(key) {
  std::error_code error;
  fs::create_directory(folder_, error);
  check(!error, folder_, ": cannot create the folder: ", error.message());
  lock_ = std::make_unique<FileLock>(folder_ + "/lock", "another packing to the same file");
  remove_stale_temporaries(folder_);
  while (read_part(count_)) ++count_;
  // Whatever else is there is of a part that was not finished, or of another packing.
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_)) {
    const std::string name = entry.path().filename().string();
    bool known = name == "lock";
    for (int64_t part = 0; part < count_ && !known; ++part) {
      const std::string path = entry.path().string();
      known = path == file(part) || path == place_file(part) || path == skipped_file(part);
    }
    if (!known) fs::remove(entry.path(), error);
  }
}

PackParts::~PackParts() {
  if (count_ == 0) remove();
}

bool PackParts::read_part(int64_t part) {
  if (!fs::exists(place_file(part))) return false;
  const Json json = Json::read_file(place_file(part));
  if (json.at("key").as_string() != key_) {
    log_warn(cat(folder_, ": removing the parts of another packing (other options, or the JSON has changed)"));
    return false;
  }
  check(fs::exists(file(part)) && fs::exists(skipped_file(part)), folder_, ": found part ", part,
        " without its files, expected them; remove the folder");
  place_ = place_from(json);
  return true;
}

void PackParts::add(const PackPlace& place, const std::string& skipped) {
  write_file_atomic(skipped_file(count_), skipped);
  write_file_atomic(place_file(count_), place_text(place, key_));
  place_ = place;
  ++count_;
}

std::string PackParts::skipped() const {
  std::string lines;
  for (int64_t part = 0; part < count_; ++part) lines += read_file(skipped_file(part));
  return lines;
}

void PackParts::remove() {
  count_ = 0;
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

}  // namespace matvlm
