// For static links only. libdbus refers to these for servers that systemd starts with their sockets open, and the distribution has no static
// libsystemd; we are no such server.
int sd_is_socket(int fd, int family, int type, int listening);
int sd_listen_fds(int unset_environment);

int sd_is_socket(int fd, int family, int type, int listening) {
  (void)fd;
  (void)family;
  (void)type;
  (void)listening;
  return 0;
}

int sd_listen_fds(int unset_environment) {
  (void)unset_environment;
  return 0;
}
