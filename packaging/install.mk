# Installation and the Debian package; part of the Makefile.

# systemd looks in /usr/local/lib too, and for users in /usr/lib only
UNITDIR     ?= $(PREFIX)/lib/systemd/system
SYSUSERSDIR ?= /usr/lib/sysusers.d

install: all ## to DESTDIR and PREFIX; the autodriver lies beside the vmm
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/libexec/milonga $(DESTDIR)$(PREFIX)/share/doc/milonga $(DESTDIR)/etc/milonga
	install -d $(DESTDIR)$(UNITDIR) $(DESTDIR)$(SYSUSERSDIR)
	install $(B)/milonga tools/milonga-from-tango $(DESTDIR)$(PREFIX)/bin
	install $(patsubst %,$(B)/milonga-%,$(SERVICES)) $(B)/autodriver $(B)/hostdriver $(DESTDIR)$(PREFIX)/libexec/milonga
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 docs/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install -D -m 644 contrib/completion/milonga.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/milonga
	install -m 644 README.md CHANGELOG.md LICENSE docs/*.md $(DESTDIR)$(PREFIX)/share/doc/milonga
	for u in packaging/systemd/milonga*.service packaging/systemd/milonga*.socket packaging/systemd/milonga.target; do \
	  sed 's,@LIBEXECDIR@,$(PREFIX)/libexec/milonga,' $$u >$(DESTDIR)$(UNITDIR)/$${u##*/} && chmod 644 $(DESTDIR)$(UNITDIR)/$${u##*/} || exit 1; done
	install -m 644 packaging/systemd/milonga.sysusers $(DESTDIR)$(SYSUSERSDIR)/milonga.conf
	[ -e $(DESTDIR)/etc/milonga/milonga.conf ] || install -m 600 milonga.conf $(DESTDIR)/etc/milonga
deb: ## the Debian package of what is committed, into BUILD/debian; needs nothing from outside
	@command -v dh >/dev/null || { echo "make deb needs debhelper and dpkg-dev: make deps" >&2; exit 1; }
	@rm -rf $(B)/debian && mkdir -p $(B)/debian/milonga && git archive HEAD | tar -xC $(B)/debian/milonga
	cd $(B)/debian/milonga && env -u MAKEFLAGS -u MAKELEVEL -u B -u BUILD dpkg-buildpackage -us -uc -b -rfakeroot
	@ls $(B)/debian/*.deb
