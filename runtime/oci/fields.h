// oci/fields.h — what becomes of each field of config.json: the table behind validation, translation and FIELDS.md.
// Spec:    OCI runtime specification 1.2, config.md, config-linux.md.
// Shape:   paths as in "mounts[].type": [] an array's element, {} a map's value. A dropped or refused row covers what is below it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace wyvern::oci {

enum class FieldKind : uint8_t {
  kObject,
  kArray,
  kMap,  // of further rows
  kStrings,
  kUints,
  kStringMap,  // of leaves
  kString,
  kBool,
  kU32,
  kI32,
  kU64,
  kI64,
  kAny,  // not looked into
};

enum class Handling : uint8_t { kGuest, kHost, kTranslated, kDropped, kRefused };

struct Field {
  std::string_view path;
  FieldKind kind;
  Handling handling;
  std::string_view note;
};

std::span<const Field> Fields();
// nullptr: unknown.
const Field* FindField(std::string_view path);
std::string_view HandlingName(Handling handling);
// The text of FIELDS.md.
std::string FieldsMarkdown();

}  // namespace wyvern::oci
