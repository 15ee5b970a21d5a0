# External libraries, all from Debian; each is named with its reason in ARCHITECTURE.md.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
if(WYVERN_STATIC)
  set(Protobuf_USE_STATIC_LIBS ON)
  set(CMAKE_FIND_LIBRARY_SUFFIXES .a .so)
endif()
find_package(Protobuf REQUIRED)
find_program(WYVERN_GRPC_PLUGIN grpc_cpp_plugin REQUIRED)

# gRPC without TLS: it is spoken over an inherited socketpair only.
add_library(wyvern_grpc INTERFACE)
pkg_check_modules(grpcpp REQUIRED grpc++_unsecure)
if(WYVERN_STATIC)
  # pkg-config's static list repeats libraries in dependency order; a group says it once.
  list(REMOVE_DUPLICATES grpcpp_STATIC_LIBRARIES)
  # Debian's grpc++_unsecure.pc leaves out what its archive itself refers to.
  list(APPEND grpcpp_STATIC_LIBRARIES upb address_sorting re2 cares z)
  target_link_libraries(wyvern_grpc INTERFACE -Wl,--start-group ${grpcpp_STATIC_LIBRARIES} -Wl,--end-group Threads::Threads)
else()
  target_link_libraries(wyvern_grpc INTERFACE ${grpcpp_LIBRARIES} Threads::Threads)
endif()

# Debian's static libdbus wants two functions of libsystemd, which has no static archive.
add_library(wyvern_dbus INTERFACE)
pkg_check_modules(dbus REQUIRED dbus-1)
target_include_directories(wyvern_dbus SYSTEM INTERFACE ${dbus_INCLUDE_DIRS})
if(WYVERN_STATIC)
  add_library(wyvern_dbus_static STATIC ${CMAKE_SOURCE_DIR}/runtime/systemd/static_link.c)
  target_link_libraries(wyvern_dbus INTERFACE dbus-1 wyvern_dbus_static Threads::Threads)
else()
  target_link_libraries(wyvern_dbus INTERFACE ${dbus_LIBRARIES})
endif()

add_library(wyvern_netlink INTERFACE)
pkg_check_modules(netlink REQUIRED libnl-route-3.0)
target_include_directories(wyvern_netlink SYSTEM INTERFACE ${netlink_INCLUDE_DIRS})
target_link_libraries(wyvern_netlink INTERFACE ${netlink_LIBRARIES} Threads::Threads)

if(WYVERN_TESTS)
  find_package(GTest REQUIRED)
endif()
