#include "fs/fs_state.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>

#include "base/endian.h"

namespace wyvern::fs {

namespace {

constexpr uint32_t kMagic = 0x73665657;  // "WVfs"
// Numbers that we count on from: none of them may wrap to one that was given away.
constexpr uint64_t kMaxNumber = uint64_t{1} << 62U;
constexpr uint32_t kNanosecondsPerSecond = 1'000'000'000;

struct Header {
  Le32 magic;
  Le32 version;
  Le32 minor;
  Le32 max_write;
  Le64 flags;
  Le64 next_node;
  Le64 next_handle;
  Le32 lost_nodes;
  Le32 lost_locked;
  Le32 nodes;
  Le32 files;
};

// The path follows.
struct NodeRecord {
  Le64 node;
  Le64 lookups;
  Le64 base;
  Le64 device;
  Le64 inode;
  Le64 birth_seconds;
  Le32 birth_nanoseconds;
  Le32 file_type;
  Le16 has_birth;
  Le16 path_length;
};

struct FileRecord {
  Le64 handle;
  Le64 node;
  Le32 flags;
};

static_assert(sizeof(Header) == 56);
static_assert(sizeof(NodeRecord) == 60);
static_assert(sizeof(FileRecord) == 20);

template <typename T>
void Append(std::vector<std::byte>* to, const T& record) {
  const auto bytes = std::as_bytes(std::span(&record, 1));
  to->insert(to->end(), bytes.begin(), bytes.end());
}

// Bytes that are taken from the front.
class StateInput {
 public:
  explicit StateInput(std::span<const std::byte> bytes) : rest_(bytes) {}

  size_t left() const { return rest_.size(); }

  template <typename T>
  bool Take(T* out) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (rest_.size() < sizeof(T)) {
      return false;
    }
    std::memcpy(out, rest_.data(), sizeof(T));
    rest_ = rest_.subspan(sizeof(T));
    return true;
  }

  bool TakeString(size_t length, std::string* out) {
    if (rest_.size() < length) {
      return false;
    }
    out->assign(reinterpret_cast<const char*>(rest_.data()), length);
    rest_ = rest_.subspan(length);
    return true;
  }

 private:
  std::span<const std::byte> rest_;
};

tl::unexpected<Error> BadState(std::string_view what) {
  return Fail(Code::kInvalidArgument, fmt::format("the state of a file server: {}", what));
}

// Names with a slash between them, each an entry of a directory.
bool IsRelativePath(std::string_view path, bool one_name) {
  if (path.size() >= PATH_MAX || path.find('\0') != std::string_view::npos) {
    return false;
  }
  for (;;) {
    const std::string_view name = path.substr(0, path.find('/'));
    if (name.empty() || name.size() > NAME_MAX || name == "." || name == "..") {
      return false;
    }
    if (name.size() == path.size()) {
      return true;
    }
    if (one_name) {
      return false;
    }
    path.remove_prefix(name.size() + 1);
  }
}

bool IsFileType(uint32_t type) {
  constexpr uint32_t kTypes[] = {S_IFREG, S_IFDIR, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK};
  return std::ranges::find(kTypes, type) != std::end(kTypes);
}

// Of the nodes so far.
using FileTypes = std::unordered_map<uint64_t, uint32_t>;

Result<FsState::Node> TakeNode(StateInput* input) {
  NodeRecord record;
  FsState::Node node;
  if (!input->Take(&record) || !input->TakeString(record.path_length, &node.path)) {
    return BadState("it ends within an inode");
  }
  node.node = record.node;
  node.lookups = record.lookups;
  node.base = record.base;
  node.identity = {record.device, record.inode, record.file_type, {}};
  const BirthTime birth{static_cast<int64_t>(record.birth_seconds.value()),
                        record.birth_nanoseconds};
  if (record.has_birth == 1 && birth.nanoseconds < kNanosecondsPerSecond) {
    node.identity.birth = birth;
  } else if (record.has_birth != 0 || birth != BirthTime{}) {
    return BadState("a time of birth that is none");
  }
  return node;
}

Result<> CheckNode(const FsState& state, const FsState::Node& node, const FileTypes& known) {
  if (node.node <= kRootNode || node.node >= state.next_node || known.contains(node.node)) {
    return BadState(fmt::format("node {} is given twice, or never was", node.node));
  }
  if (node.lookups == 0 || node.lookups > kMaxNumber) {
    return BadState(fmt::format("node {} has been looked up {} times", node.node, node.lookups));
  }
  const auto base = known.find(node.base);
  if (base == known.end() || base->second != S_IFDIR) {
    return BadState(fmt::format("node {} lies in no directory before it", node.node));
  }
  if (!IsFileType(node.identity.file_type)) {
    return BadState(fmt::format("node {} is of no type of file", node.node));
  }
  if (!IsRelativePath(node.path, node.base != kRootNode)) {
    return BadState(fmt::format("the path of node {} is none beneath a directory", node.node));
  }
  return {};
}

Result<> CheckFile(const FsState& state, const FsState::OpenFile& file, const FileTypes& known) {
  if (file.handle == 0 || file.handle >= state.next_handle) {
    return BadState(fmt::format("open file {} never was", file.handle));
  }
  if (file.node == 0) {
    return file.flags == 0 ? Result<>() : BadState("a file that is not carried has flags");
  }
  const auto type = known.find(file.node);
  if (type == known.end() || (type->second != S_IFREG && type->second != S_IFDIR)) {
    return BadState(fmt::format("open file {} is of no inode that can be open", file.handle));
  }
  const uint32_t allowed = type->second == S_IFDIR ? 0 : kOpenFlags;
  if ((file.flags & ~allowed) != 0 || (file.flags & O_ACCMODE) == O_ACCMODE) {
    return BadState(fmt::format("open file {} has flags {:#x}", file.handle, file.flags));
  }
  return {};
}

Result<> TakeNodes(StateInput* input, size_t count, FsState* state, FileTypes* known) {
  if (count > input->left() / sizeof(NodeRecord)) {
    return BadState("it ends before its inodes do");
  }
  state->nodes.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    WV_TRY(FsState::Node node, TakeNode(input));
    WV_TRY_VOID(CheckNode(*state, node, *known));
    known->emplace(node.node, node.identity.file_type);
    state->nodes.push_back(std::move(node));
  }
  return {};
}

Result<> TakeFiles(StateInput* input, size_t count, FsState* state, const FileTypes& known) {
  if (count != input->left() / sizeof(FileRecord) || input->left() % sizeof(FileRecord) != 0) {
    return BadState("it does not end with its open files");
  }
  state->files.reserve(count);
  std::unordered_set<uint64_t> handles;
  size_t lost = 0;
  for (size_t i = 0; i < count; ++i) {
    FileRecord record;
    input->Take(&record);
    const FsState::OpenFile file{record.handle, record.node, record.flags};
    WV_TRY_VOID(CheckFile(*state, file, known));
    if (!handles.insert(file.handle).second) {
      return BadState(fmt::format("open file {} is given twice", file.handle));
    }
    lost += file.node == 0 ? 1 : 0;
    state->files.push_back(file);
  }
  return state->lost_locked <= lost ? Result<>() : BadState("more files with locks than lost ones");
}

}  // namespace

std::vector<std::byte> EncodeState(const FsState& state) {
  std::vector<std::byte> bytes;
  Append(&bytes, Header{kMagic, FsState::kVersion, state.minor, state.max_write, state.flags,
                        state.next_node, state.next_handle, state.lost_nodes, state.lost_locked,
                        static_cast<uint32_t>(state.nodes.size()),
                        static_cast<uint32_t>(state.files.size())});
  for (const FsState::Node& node : state.nodes) {
    const FileIdentity& identity = node.identity;
    const BirthTime birth = identity.birth.value_or(BirthTime{});
    Append(&bytes, NodeRecord{node.node, node.lookups, node.base, identity.device, identity.inode,
                              static_cast<uint64_t>(birth.seconds), birth.nanoseconds,
                              identity.file_type, uint16_t{identity.birth.has_value()},
                              static_cast<uint16_t>(node.path.size())});
    const auto path = std::as_bytes(std::span(node.path));
    bytes.insert(bytes.end(), path.begin(), path.end());
  }
  for (const FsState::OpenFile& file : state.files) {
    Append(&bytes, FileRecord{file.handle, file.node, file.flags});
  }
  return bytes;
}

Result<FsState> DecodeState(std::span<const std::byte> bytes) {
  StateInput input(bytes);
  Header header;
  if (!input.Take(&header) || header.magic != kMagic) {
    return BadState("these bytes are none");
  }
  if (header.version != FsState::kVersion) {
    return BadState(fmt::format("it is of version {}, and {} is what this server knows",
                                header.version.value(), FsState::kVersion));
  }
  FsState state;
  state.minor = header.minor;
  state.max_write = header.max_write;
  state.flags = header.flags;
  state.next_node = header.next_node;
  state.next_handle = header.next_handle;
  state.lost_nodes = header.lost_nodes;
  state.lost_locked = header.lost_locked;
  if (state.next_node <= kRootNode || state.next_node > kMaxNumber || state.next_handle == 0 ||
      state.next_handle > kMaxNumber) {
    return BadState("numbers that no server has come to");
  }
  const bool nothing = state.max_write == 0 && state.flags == 0 && header.nodes == 0 &&
                       header.files == 0 && state.lost_nodes == 0;
  if (state.minor == 0 && !nothing) {
    return BadState("no session, and yet something of it");
  }
  FileTypes known{{kRootNode, S_IFDIR}};
  WV_TRY_VOID(TakeNodes(&input, header.nodes, &state, &known));
  WV_TRY_VOID(TakeFiles(&input, header.files, &state, known));
  return state;
}

}  // namespace wyvern::fs
