// An image of any bytes: opened or refused, and what is opened becomes the config.json of a run. Nothing is written beside the
// store, and nothing stays in it when no image holds it.
// Input:   lines: index.json, then blobs; the last one, which may be a layer, is all that is left. "@1" to "@4" in index.json or a
//          blob stand for the digest of a blob behind it, which no fuzzer finds.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/fd.h"
#include "base/testing/fuzz_directory.h"
#include "cli/digest.h"
#include "cli/image.h"
#include "cli/image_store.h"
#include "cli/run_spec.h"

namespace {

using wyvern::WriteFile;

constexpr size_t kParts = 5;

std::array<std::string, kParts> Split(std::string_view text) {
  std::array<std::string, kParts> parts;
  for (size_t i = 0; i + 1 < kParts; ++i) {
    const size_t end = std::min(text.find('\n'), text.size());
    parts[i] = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  parts.back() = text;
  return parts;
}

void Replace(std::string& text, const std::string& what, const std::string& with) {
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += with.size()) {
    text.replace(at, what.size(), with);
  }
}

// Path of the last blob.
std::string WriteLayout(const std::string& layout, std::array<std::string, kParts> parts) {
  const std::string blobs = layout + "/blobs/sha256/";
  std::filesystem::create_directories(blobs);
  WV_CHECK(WriteFile(layout + "/oci-layout", "{}").has_value());
  std::array<std::string, kParts> digests;
  for (size_t i = kParts; i-- > 0;) {
    for (size_t j = i + 1; j < kParts; ++j) {
      Replace(parts[i], "@" + std::to_string(j), digests[j]);
    }
    digests[i] = wyvern::cli::Sha256(parts[i]);
    const std::string path = i > 0 ? blobs + digests[i].substr(7) : layout + "/index.json";
    WV_CHECK(WriteFile(path, parts[i]).has_value());
  }
  return blobs + digests.back().substr(7);
}

void Open(const std::string& source, const std::string& store) {
  const auto image = wyvern::cli::OpenImage(source, store);
  if (!image) {
    return;
  }
  WV_CHECK(!image->layers.empty() && image->held.size() == image->layers.size());
  for (const char* user : {"", "root:daemon"}) {
    wyvern::cli::RunOptions options;
    options.user = user;
    (void)wyvern::cli::MakeRunSpec(options, *image);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string root = wyvern::MakeFuzzDirectory("image");
  const std::string layout = root + "/layout";
  const std::string store = root + "/store";
  const std::string last = WriteLayout(layout, Split({reinterpret_cast<const char*>(data), size}));
  Open(layout, store);
  // The last blob as an archive, too.
  Open(last, store);
  std::filesystem::remove_all(layout);
  const auto pruned = wyvern::cli::PruneStore(store);
  WV_CHECK(pruned.has_value() && pruned->left.empty() && pruned->in_use == 0);
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    const std::string path = entry.path();
    WV_CHECK(path == store || path == store + "/.lock" || path == store + "/layers");
  }
  return 0;
}
