#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/fd.h"
#include "state/state.h"

namespace wyvern::runtime {
namespace {

std::string FileOf(const std::string& directory) {
  return directory + "/state.json";
}

// FNV-1a, 64 bits; two of them with different beginnings. The file's own namespace and id decide, not the hash.
uint64_t Fnv(std::string_view text, uint64_t hash) {
  for (const char c : text) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  }
  return hash;
}

Result<> MakeDirectory(const std::string& path, mode_t mode) {
  if (mkdir(path.c_str(), mode) != 0 && errno != EEXIST) {
    return SysError("mkdir " + path);
  }
  return {};
}

}  // namespace

std::string StateDirectory(const std::string& state_dir, const std::string& ns,
                           const std::string& id) {
  const std::string text = ns + '\0' + id;
  return fmt::format("{}/{:016x}{:016x}", state_dir, Fnv(text, 0xcbf29ce484222325ULL),
                     Fnv(text, 0x9ae16a3b2f90404fULL));
}

Result<std::unique_ptr<StateStore>> StateStore::Create(const std::string& state_dir,
                                                       SandboxRecord record, StepHook hook) {
  std::string directory = StateDirectory(state_dir, record.ns, record.id);
  if (auto old = LoadState(directory); old.has_value()) {
    if (old->ns != record.ns || old->id != record.id || IsAlive(old->owner)) {
      return Fail(Code::kAlreadyExists,
                  fmt::format("sandbox {} exists already (process {})", old->id, old->owner.pid));
    }
    return Fail(Code::kFailedPrecondition,
                fmt::format("sandbox {} left things behind: {}", old->id, directory));
  } else if (old.error().code() == Code::kFailedPrecondition) {
    return tl::unexpected(std::move(old).error().WithContext(directory));
  }
  WV_TRY_VOID(MakeDirectory(state_dir, 0711));
  WV_TRY_VOID(MakeDirectory(directory, 0700));
  auto store = std::unique_ptr<StateStore>(
      new StateStore(std::move(directory), std::move(record), std::move(hook)));
  WV_TRY_VOID(store->Update("state", [](SandboxRecord&) {}));
  return store;
}

Result<> StateStore::Update(const std::string& step,
                            const std::function<void(SandboxRecord&)>& change) {
  {
    const std::lock_guard lock(mu_);
    SandboxRecord next = record_;
    change(next);
    WV_TRY_VOID_CONTEXT(WriteFileAtomically(FileOf(directory_), FormatState(next), 0600),
                        "saving the sandbox's state");
    record_ = std::move(next);
  }
  if (hook_) {
    hook_(step);
  }
  return {};
}

SandboxRecord StateStore::Snapshot() const {
  const std::lock_guard lock(mu_);
  return record_;
}

Result<> StateStore::Remove() {
  return RemoveStateDirectory(directory_);
}

Result<SandboxRecord> LoadState(const std::string& directory) {
  WV_TRY(const std::string text, ReadFile(FileOf(directory), kMaxStateBytes));
  return ParseState(text);
}

Result<> RemoveStateDirectory(const std::string& directory) {
  // What we or the shim put there; state.json last, so that an interrupted removal can be repeated.
  for (const char* name : {"control.sock", "metrics.sock", "state.json.new", "state.json"}) {
    const std::string path = directory + "/" + name;
    if (unlink(path.c_str()) != 0 && errno != ENOENT && errno != ENOTDIR) {
      return SysError("unlink " + path);
    }
  }
  if (rmdir(directory.c_str()) != 0 && errno != ENOENT && errno != ENOTEMPTY) {
    return SysError("rmdir " + directory);
  }
  return {};
}

}  // namespace wyvern::runtime
