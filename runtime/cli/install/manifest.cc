#include "install/manifest.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/fd.h"

namespace wyvern::cli {

namespace {

constexpr int kFormat = 1;
constexpr std::array<std::pair<PlacedKind, std::string_view>, 4> kKinds = {
    {{PlacedKind::kDirectory, "directory"},
     {PlacedKind::kLink, "link"},
     {PlacedKind::kFile, "file"},
     {PlacedKind::kLines, "lines"}}};

// The text of a member; empty where it is none.
std::string Text(const nlohmann::json& object, const char* name) {
  const auto it = object.is_object() ? object.find(name) : object.end();
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

bool IsPlainPath(const std::string& path) {
  return path.starts_with('/') && (path + "/").find("/../") == std::string::npos;
}

}  // namespace

const Placed* Manifest::Find(PlacedKind kind, std::string_view path) const {
  const auto it = std::ranges::find_if(
      placed, [&](const Placed& item) { return item.kind == kind && item.path == path; });
  return it == placed.end() ? nullptr : &*it;
}

void Manifest::Put(Placed item) {
  const auto it = std::ranges::find_if(placed, [&](const Placed& other) {
    return other.kind == item.kind && other.path == item.path;
  });
  if (it == placed.end()) {
    placed.push_back(std::move(item));
  } else {
    *it = std::move(item);
  }
}

void Manifest::Remove(PlacedKind kind, std::string_view path) {
  std::erase_if(placed, [&](const Placed& item) { return item.kind == kind && item.path == path; });
}

Result<Manifest> ReadManifest(const std::string& file) {
  auto text = ReadFile(file);
  if (!text && text.error().code() == Code::kNotFound) {
    return Manifest();
  }
  WV_TRY(const std::string json, std::move(text));
  const auto bad = [&file] {
    return Fail(Code::kDataLoss, file +
                                     ": not what `wyvern install` writes; move it away, and what "
                                     "it should name is to be removed by hand");
  };
  const auto document = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!document.is_object() || !document.contains("format") ||
      !document["format"].is_number_integer()) {
    return bad();
  }
  if (document["format"] != kFormat) {
    return Fail(Code::kFailedPrecondition,
                file + ": of another Wyvern's format; use that one's install and uninstall");
  }
  Manifest manifest;
  manifest.version = Text(document, "version");
  const auto placed = document.find("placed");
  if (placed == document.end() || !placed->is_array()) {
    return bad();
  }
  for (const auto& item : *placed) {
    const std::string kind = Text(item, "kind");
    const auto it = std::ranges::find(kKinds, kind, &decltype(kKinds)::value_type::second);
    if (it == kKinds.end() || !IsPlainPath(Text(item, "path"))) {
      return bad();
    }
    manifest.Put({it->first, Text(item, "path"), Text(item, "mark")});
  }
  return manifest;
}

Result<> WriteManifest(const std::string& file, const Manifest& manifest) {
  nlohmann::json document = {{"format", kFormat}, {"version", manifest.version}};
  document["placed"] = nlohmann::json::array();
  for (const Placed& item : manifest.placed) {
    document["placed"].push_back(
        {{"kind",
          std::ranges::find(kKinds, item.kind, &decltype(kKinds)::value_type::first)->second},
         {"path", item.path},
         {"mark", item.mark}});
  }
  const std::string text =
      document.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  return WriteFileAtomically(file, text, 0644);
}

}  // namespace wyvern::cli
