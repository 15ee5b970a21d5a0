#include "guest/store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>  // renameat2
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/fd.h"

namespace wyvern::guest {

namespace {

using Json = nlohmann::json;

constexpr int kVersion = 1;
constexpr size_t kMaxName = 64;

bool IsLetterOrDigit(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

std::string Text(const Json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

StoredFile FileOf(const Json& object, const char* name) {
  const auto found = object.find(name);
  if (found == object.end() || !found->is_object()) {
    return {};
  }
  const auto size = found->find("size");
  return {.digest = Text(*found, "digest"),
          .size = size != found->end() && size->is_number_unsigned() ? size->get<uint64_t>() : 0};
}

std::string Format(const Guest& guest) {
  const Json document = {{"version", kVersion},
                         {"name", guest.name},
                         {"release", guest.release},
                         {"cmdline", guest.cmdline},
                         {"source", guest.source_digest},
                         {"kernel", {{"digest", guest.kernel.digest}, {"size", guest.kernel.size}}},
                         {"initrd", {{"digest", guest.initrd.digest}, {"size", guest.initrd.size}}},
                         {"modules", guest.modules}};
  return document.dump(1) + "\n";
}

Result<> CheckFile(const std::string& path, const StoredFile& file) {
  struct stat info {};

  if (stat(path.c_str(), &info) != 0) {
    return SysError(path);
  }
  if (static_cast<uint64_t>(info.st_size) != file.size || file.digest.empty()) {
    return Fail(Code::kDataLoss, path + " has not the size that it was stored with");
  }
  return {};
}

Result<Guest> ReadGuest(const std::string& directory) {
  WV_TRY(const std::string text, ReadFile(directory + "/guest.json"));
  const Json document = Json::parse(text, nullptr, false);
  const auto version = document.is_object() ? document.find("version") : document.end();
  if (document.is_discarded() || version == document.end() || *version != kVersion) {
    return Fail(Code::kDataLoss, directory + "/guest.json is damaged or of another version");
  }
  Guest guest;
  guest.name = Text(document, "name");
  guest.release = Text(document, "release");
  guest.cmdline = Text(document, "cmdline");
  guest.source_digest = Text(document, "source");
  guest.kernel = FileOf(document, "kernel");
  guest.initrd = FileOf(document, "initrd");
  if (const auto modules = document.find("modules"); modules != document.end()) {
    for (const Json& module : *modules) {
      guest.modules.push_back(module.is_string() ? module.get<std::string>() : "");
    }
  }
  guest.directory = directory;
  WV_TRY_VOID(CheckFile(guest.kernel_path(), guest.kernel));
  WV_TRY_VOID(CheckFile(guest.initrd_path(), guest.initrd));
  return guest;
}

Result<> Remove(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (error) {
    return SysErrorFrom(error.value(), "remove " + path);
  }
  return {};
}

}  // namespace

bool IsGuestName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxName && IsLetterOrDigit(name[0]) &&
         std::ranges::all_of(name, [](char c) {
           return IsLetterOrDigit(c) || c == '.' || c == '_' || c == '+' || c == '-';
         });
}

Result<Guest> FindGuest(const std::string& directory, const std::string& name) {
  if (!IsGuestName(name)) {
    return Fail(Code::kInvalidArgument, fmt::format("\"{}\" is not a guest's name", name));
  }
  auto guest = ReadGuest(directory + "/" + name);
  if (guest) {
    return guest;
  }
  if (access((directory + "/" + name).c_str(), F_OK) != 0) {
    return Fail(Code::kNotFound,
                fmt::format("no guest {} in {}: `wyvern guest list` shows those that are there, "
                            "`wyvern guest import --name {} --kernel …` makes it",
                            name, directory, name));
  }
  return tl::unexpected(
      std::move(guest).error().WithContext(fmt::format("guest {} (import it again)", name)));
}

Result<std::vector<Guest>> ListGuests(const std::string& directory) {
  std::vector<Guest> guests;
  std::error_code error;
  for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (!IsGuestName(name)) {
      continue;
    }
    if (auto guest = ReadGuest(it->path().string())) {
      guests.push_back(*std::move(guest));
    }
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    return SysErrorFrom(error.value(), directory);
  }
  std::ranges::sort(guests, {}, &Guest::name);
  return guests;
}

Result<> RemoveGuest(const std::string& directory, const std::string& name) {
  const std::string path = directory + "/" + name;
  if (!IsGuestName(name) || access(path.c_str(), F_OK) != 0) {
    return Fail(Code::kNotFound, fmt::format("no guest {} in {}", name, directory));
  }
  return Remove(path);
}

Result<> PutGuest(const std::string& directory, const Guest& guest, const std::string& from) {
  WV_TRY_VOID(WriteFileAtomically(from + "/guest.json", Format(guest), 0644));
  const std::string to = directory + "/" + guest.name;
  if (rename(from.c_str(), to.c_str()) == 0) {
    return {};
  }
  if (errno != ENOTEMPTY && errno != EEXIST) {
    return SysError("rename " + from + " to " + to);
  }
  // At no moment is there none: who reads it sees the old one or the new one.
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) != 0) {
    return SysError("exchange " + from + " and " + to);
  }
  return Remove(from);
}

}  // namespace wyvern::guest
