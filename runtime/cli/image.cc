#include "cli/image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/cleanup.h"
#include "cli/digest.h"
#include "cli/image_store.h"
#include "cli/layer.h"

namespace wyvern::cli {

namespace {

using Json = nlohmann::json;

constexpr size_t kMaxDocument = 4U << 20U;
constexpr size_t kMaxLayers = 127;
// To who names an image of a registry, too.
constexpr const char* kSources =
    "wyvern pulls none; give a root directory, an OCI layout or an OCI archive, such as "
    "\"skopeo copy docker://IMAGE oci:DIRECTORY\" or \"ctr images export FILE IMAGE\" makes";

Result<Json> ParseJson(const std::string& text, const std::string& name) {
  Json document = Json::parse(text, nullptr, false);
  if (document.is_discarded() || !document.is_object()) {
    return Fail(Code::kDataLoss, name + " is not a JSON object: the image is damaged");
  }
  return document;
}

// A member of the wanted type, or an empty one of it.
template <typename T>
T Member(const Json& object, const char* name, T otherwise) {
  const auto found = object.find(name);
  if (found == object.end()) {
    return otherwise;
  }
  if constexpr (std::is_same_v<T, std::string>) {
    return found->is_string() ? found->get<std::string>() : otherwise;
  } else {
    std::vector<std::string> list;
    if (found->is_array()) {
      for (const Json& item : *found) {
        if (item.is_string()) {
          list.push_back(item.get<std::string>());
        }
      }
    }
    return list;
  }
}

class Layout {
 public:
  explicit Layout(std::string directory) : directory_(std::move(directory)) {}

  // Opens a blob and checks it against its digest.
  Result<UniqueFd> OpenBlob(const std::string& digest) const {
    if (!IsSha256(digest)) {
      return Fail(Code::kDataLoss,
                  "the image names a blob \"" + digest + "\" that is no sha256 digest");
    }
    const std::string path = directory_ + "/blobs/sha256/" + digest.substr(7);
    WV_TRY_CONTEXT(UniqueFd fd, Open(path, O_RDONLY | O_NOFOLLOW), "the image lacks a blob");
    WV_TRY(const std::string found, Sha256OfFile(fd));
    if (found != digest) {
      return Fail(Code::kDataLoss,
                  "the image is damaged: blob " + digest + " has the digest " + found);
    }
    lseek(fd.get(), 0, SEEK_SET);
    return fd;
  }

  Result<Json> ReadBlob(const Json& descriptor) const {
    const auto digest = Member<std::string>(descriptor, "digest", "");
    WV_TRY(const UniqueFd fd, OpenBlob(digest));
    WV_TRY(const std::string text, ReadToEnd(fd, kMaxDocument));
    return ParseJson(text, digest);
  }

  // index.json → manifest, through one nested index (multi-platform images).
  Result<Json> FindManifest() const {
    WV_TRY(const std::string text, ReadFile(directory_ + "/index.json", kMaxDocument));
    WV_TRY(Json document, ParseJson(text, "index.json"));
    for (int depth = 0; depth < 3; ++depth) {
      const auto manifests = document.find("manifests");
      if (manifests == document.end()) {
        return document;
      }
      if (!manifests->is_array() || manifests->empty()) {
        return Fail(Code::kDataLoss, "the image's index lists no manifest");
      }
      WV_TRY(document, ReadBlob(Choose(*manifests)));
    }
    return Fail(Code::kDataLoss, "the image's indexes are nested too deeply");
  }

 private:
  // The entry for this architecture, else the first.
  static const Json& Choose(const Json& manifests) {
    for (const Json& entry : manifests) {
      if (entry.is_object() && entry.contains("platform") && entry["platform"].is_object() &&
          Member<std::string>(entry["platform"], "architecture", "") == "amd64") {
        return entry;
      }
    }
    return manifests.front();
  }

  std::string directory_;
};

Result<> MakeDirectories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) {
    return SysErrorFrom(error.value(), "create " + path);
  }
  return {};
}

void RemoveTree(const std::string& path) {
  std::error_code ignored;
  std::filesystem::remove_all(path, ignored);
}

// Unpacks into a temporary directory and renames it: a crash leaves no half layer under the digest's name.
Result<std::string> UnpackOnce(const Layout& layout, const std::string& digest,
                               const std::string& store) {
  const std::string final_path =
      store + "/layers/" + (IsSha256(digest) ? digest.substr(7) : "invalid");
  if (IsSha256(digest) && access(final_path.c_str(), F_OK) == 0) {
    return final_path;
  }
  WV_TRY(const UniqueFd blob, layout.OpenBlob(digest));
  WV_TRY_VOID(MakeDirectories(store + "/layers"));
  std::string temporary = store + "/layers/unpack-XXXXXX";
  if (mkdtemp(temporary.data()) == nullptr) {
    return SysError("create " + temporary);
  }
  Cleanup remove([&temporary] { RemoveTree(temporary); });
  if (chmod(temporary.c_str(), 0755) != 0) {
    return SysError("chmod " + temporary);
  }
  WV_TRY_VOID_CONTEXT(UnpackLayer(blob, temporary), "unpack layer " + digest);
  if (rename(temporary.c_str(), final_path.c_str()) != 0 && errno != EEXIST && errno != ENOTEMPTY) {
    return SysError("rename " + temporary);
  }
  return final_path;
}

Result<Image> OpenLayout(const std::string& directory, const std::string& store) {
  const Layout layout(directory);
  WV_TRY_CONTEXT(const Json manifest, layout.FindManifest(), directory);
  const auto layers = manifest.find("layers");
  const auto config = manifest.find("config");
  if (layers == manifest.end() || !layers->is_array() || config == manifest.end() ||
      !config->is_object()) {
    return Fail(Code::kDataLoss, directory + ": the image's manifest has no layers or config");
  }
  if (layers->empty() || layers->size() > kMaxLayers) {
    return Fail(Code::kInvalidArgument, directory + ": an image has 1 to 127 layers, not " +
                                            std::to_string(layers->size()));
  }
  Image image;
  for (const Json& layer : *layers) {
    const auto digest =
        layer.is_object() ? Member<std::string>(layer, "digest", "") : std::string();
    WV_TRY(std::string path, UnpackOnce(layout, digest, store));
    WV_TRY(UniqueFd held, HoldLayer(path));
    image.held.push_back(std::move(held));
    image.layers.push_back(std::move(path));
  }
  WV_TRY(const Json document, layout.ReadBlob(*config));
  const auto settings = document.find("config");
  if (settings != document.end() && settings->is_object()) {
    image.config.entrypoint = Member<std::vector<std::string>>(*settings, "Entrypoint", {});
    image.config.command = Member<std::vector<std::string>>(*settings, "Cmd", {});
    image.config.env = Member<std::vector<std::string>>(*settings, "Env", {});
    image.config.cwd = Member<std::string>(*settings, "WorkingDir", "");
    image.config.user = Member<std::string>(*settings, "User", "");
  }
  return image;
}

Result<Image> OpenArchiveFile(const std::string& path, const std::string& store) {
  WV_TRY(const UniqueFd file, Open(path, O_RDONLY));
  WV_TRY_VOID(MakeDirectories(store));
  std::string temporary = store + "/archive-XXXXXX";
  if (mkdtemp(temporary.data()) == nullptr) {
    return SysError("create " + temporary);
  }
  const Cleanup remove([&temporary] { RemoveTree(temporary); });
  WV_TRY_VOID_CONTEXT(UnpackArchive(file, temporary), path);
  if (access((temporary + "/oci-layout").c_str(), F_OK) != 0) {
    return Fail(Code::kInvalidArgument,
                path +
                    ": not an OCI archive (it has no oci-layout file); make one with "
                    "\"skopeo copy docker-archive:FILE oci-archive:NEW\"");
  }
  return OpenLayout(temporary, store);
}

}  // namespace

Result<Image> OpenImage(const std::string& source, const std::string& store) {
  struct stat info {};

  if (stat(source.c_str(), &info) != 0) {
    if (errno == ENOENT) {
      return Fail(Code::kNotFound,
                  "there is no image or root directory " + source + " here: " + kSources);
    }
    return SysError("the image or root directory " + source);
  }
  const bool is_directory = S_ISDIR(info.st_mode);
  if (!is_directory || access((source + "/oci-layout").c_str(), F_OK) == 0) {
    WV_TRY(const UniqueFd lock, LockStore(store));
    return is_directory ? OpenLayout(source, store) : OpenArchiveFile(source, store);
  }
  Image image;
  std::error_code error;
  image.layers.push_back(std::filesystem::canonical(source, error).string());
  image.is_directory = true;
  return image;
}

Result<runtime::UserIds> ResolveUser(const Image& image, const std::string& user) {
  constexpr const char* kWhat = "--user, or the image's user";
  WV_TRY_CONTEXT(const runtime::UserFiles files,
                 runtime::ReadUserFiles({image.layers.rbegin(), image.layers.rend()}), kWhat);
  WV_TRY_CONTEXT(runtime::UserIds ids, runtime::FindUser(files, user), kWhat);
  return ids;
}

}  // namespace wyvern::cli
