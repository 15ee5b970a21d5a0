#include "fs/differential/tree.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>

namespace wyvern::fs::differential {

namespace {

// Content, target or names of one node.
std::string DescribeContent(Target& target, const NodeRef& directory, const std::string& name,
                            const NodeRef& node) {
  if (node->type == S_IFLNK) {
    std::string text;
    const int error = target.ReadLink(node, &text);
    return ErrorOr(error, Escape(text));
  }
  if (node->type != S_IFREG) {
    return "-";
  }
  Step reading;
  reading.flags = O_RDONLY;
  FileRef file;
  if (const int error = target.Open(directory, name, node, reading, &file); error != 0) {
    return ErrorOr(error);
  }
  std::string all;
  constexpr size_t kChunk = 1 << 20;
  for (;;) {
    std::string part;
    if (const int error = file->Read(all.size(), kChunk, &part); error != 0) {
      return ErrorOr(error);
    }
    all += part;
    if (part.size() < kChunk) {
      return fmt::format("{:016x}", HashOf(all));
    }
  }
}

// Goes through a tree; knows the first name of each inode.
struct TreeWriter {
  Target& target;
  RunnerOptions options;
  std::map<uint64_t, std::string> first_names;
  std::string out;

  void Describe(const NodeRef& directory, const std::string& path);
  std::string FirstName(const NodeRef& node, const std::string& name);
};

std::string TreeWriter::FirstName(const NodeRef& node, const std::string& name) {
  Attributes attributes;
  if (target.GetAttributes(node, &attributes) != 0) {
    return "?";
  }
  return first_names.try_emplace(attributes.inode, name).first->second;
}

void TreeWriter::Describe(const NodeRef& directory, const std::string& path) {
  std::vector<DirectoryItem> items;
  if (const int error = target.List(directory, 4096, &items); error != 0) {
    out += path + " " + ErrorOr(error) + "\n";
  }
  std::ranges::sort(items, {}, &DirectoryItem::name);
  Runner runner(target, options);
  for (const DirectoryItem& item : items) {
    NodeRef node;
    const std::string full = path + "/" + Escape(item.name);
    if (const int failed = target.LookUp(directory, item.name, &node); failed != 0) {
      out += full + " " + ErrorOr(failed) + "\n";
      continue;
    }
    // The attributes first: reading moves the access time.
    out += full + " " + runner.ShowNode(node);
    out += " is=" + FirstName(node, full);
    out += " content=" + DescribeContent(target, directory, item.name, node);
    out += " xattrs:" + ShowXattrs(target, node) + "\n";
    if (node->type == S_IFDIR) {
      Describe(node, full);
    }
  }
}

}  // namespace

std::string DescribeTree(Target& target, RunnerOptions options) {
  TreeWriter writer{target, options, {}, {}};
  writer.Describe(target.Root(), "");
  return writer.out;
}

}  // namespace wyvern::fs::differential
