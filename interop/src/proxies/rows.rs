//! The programs and their configurations.

/// Where a program is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// A Debian that does not change any more.
    Bookworm,
    /// The newest that Debian has.
    Sid,
}

impl Suite {
    /// Of its root.
    #[must_use]
    pub fn folder(self) -> &'static str {
        match self {
            Suite::Bookworm => "bookworm",
            Suite::Sid => "sid",
        }
    }

    /// Of the file with the versions.
    pub(super) fn list(self, package: &str) -> &'static str {
        if package == "envoy" { "envoy" } else { self.folder() }
    }
}

/// A program in one configuration.
#[derive(Debug)]
pub struct Row {
    /// For people.
    pub program: &'static str,
    /// What there is about the configuration.
    pub configuration: &'static str,
    /// Where it is from.
    pub suite: Suite,
    /// Whose version it has.
    pub package: &'static str,
    /// Below `deploy/proxies`.
    pub files: &'static [&'static str],
    /// What is another in these files.
    pub changes: &'static [(&'static str, &'static str)],
    /// What is started.
    pub commands: &'static [&'static [&'static str]],
    /// Files of HAProxies around it that have TLS in its place.
    pub around: &'static [&'static str],
}

impl Row {
    /// For messages.
    #[must_use]
    pub fn name(&self) -> String {
        let suite = self.suite.folder();
        format!("{} ({suite}), {}", self.program, self.configuration)
    }

    /// The same program of another suite.
    #[must_use]
    pub const fn from(self, suite: Suite) -> Row {
        Row { suite, ..self }
    }

    const fn with(
        self,
        configuration: &'static str,
        changes: &'static [(&'static str, &'static str)],
    ) -> Row {
        Row { configuration, changes, ..self }
    }
}

/// As it is in `deploy/proxies`.
const SHIPPED: &str = "as shipped";
const AROUND: &[&str] = &["tls-in-front.cfg", "tls-behind.cfg"];
const NO_UPGRADES: &str = "no word about upgrades";

const fn row(
    program: &'static str,
    package: &'static str,
    files: &'static [&'static str],
    commands: &'static [&'static [&'static str]],
) -> Row {
    let (configuration, suite) = (SHIPPED, Suite::Bookworm);
    Row { program, configuration, suite, package, files, changes: &[], commands, around: &[] }
}

const NGINX: Row =
    row("nginx", "nginx-light", &["nginx.conf"], &[&["nginx", "-c", "/etc/bowline/nginx.conf"]]);
const NGINX_PLAIN: Row = NGINX.with(
    NO_UPGRADES,
    &[
        ("            proxy_http_version 1.1;\n", ""),
        ("            proxy_set_header Upgrade $http_upgrade;\n", ""),
        ("            proxy_set_header Connection $connection_upgrade;\n", ""),
    ],
);
const NGINX_WEBSOCKET: Row = NGINX.with(
    "`Upgrade websocket` for all",
    &[
        ("proxy_set_header Upgrade $http_upgrade;", "proxy_set_header Upgrade websocket;"),
        (
            "proxy_set_header Connection $connection_upgrade;",
            "proxy_set_header Connection upgrade;",
        ),
    ],
);
/// The one next to which a plain request is measured as well.
pub const HAPROXY: Row = row(
    "HAProxy",
    "haproxy",
    &["haproxy.cfg"],
    &[&["haproxy", "-db", "-f", "/etc/bowline/haproxy.cfg"]],
);
/// In front of two gateways; not in the table, since it passes bytes and knows no protocol.
pub const REPLICAS: Row = row(
    "HAProxy",
    "haproxy",
    &["haproxy-replicas.cfg"],
    &[&["haproxy", "-db", "-f", "/etc/bowline/haproxy-replicas.cfg"]],
);
const APACHE: Row = row(
    "Apache",
    "apache2-bin",
    &["apache.conf"],
    &[&["apache2", "-DFOREGROUND", "-f", "/etc/bowline/apache.conf"]],
);
const H2_OFF: (&str, &str) = ("H2WebSockets on", "H2WebSockets off");
const APACHE_PLAIN: Row = APACHE.with(NO_UPGRADES, &[(" upgrade=ANY", ""), H2_OFF]);
const APACHE_WEBSOCKET: Row =
    APACHE.with("`upgrade=websocket`", &[("upgrade=ANY", "upgrade=websocket"), H2_OFF]);
const APACHE_TUNNEL: Row = APACHE.with(
    "`mod_proxy_wstunnel`",
    &[("https://localhost:6443/ upgrade=ANY", "wss://localhost:6443/"), H2_OFF],
);
const APACHE_H2: Row =
    APACHE.with("`upgrade=websocket`, `H2WebSockets on`", &[("upgrade=ANY", "upgrade=websocket")]);
const CADDY: Row = row(
    "Caddy",
    "caddy",
    &["Caddyfile"],
    &[&["caddy", "run", "--config", "/etc/bowline/Caddyfile", "--adapter", "caddyfile"]],
);
const CADDY_H2: Row = CADDY.with("no word about versions", &[("\t\t\tversions 1.1\n", "")]);
const ENVOY: Row = row(
    "Envoy",
    "envoy",
    &["envoy.yaml"],
    &[&["envoy", "-c", "/etc/bowline/envoy.yaml", "--concurrency", "1", "--disable-hot-restart"]],
);
const ENVOY_CONNECT: (&str, &str) =
    ("          http2_protocol_options: {allow_connect: true}\n", "");
const ENVOY_SPDY: (&str, &str) = ("          - upgrade_type: spdy/3.1\n", "");
const ENVOY_PLAIN: Row = ENVOY.with(
    NO_UPGRADES,
    &[
        ("          upgrade_configs:\n          - upgrade_type: websocket\n", ""),
        ENVOY_SPDY,
        ENVOY_CONNECT,
    ],
);
const ENVOY_HTTP2: Row = Row {
    configuration: "as shipped in `envoy-http2.yaml`",
    ..row(
        "Envoy",
        "envoy",
        &["envoy-http2.yaml"],
        &[&[
            "envoy",
            "-c",
            "/etc/bowline/envoy-http2.yaml",
            "--concurrency",
            "1",
            "--disable-hot-restart",
        ]],
    )
};
const ENVOY_WEBSOCKET: Row = ENVOY.with("`upgrade_type: websocket` alone", &[ENVOY_SPDY]);
const VARNISH: Row = Row {
    around: AROUND,
    ..row(
        "Varnish",
        "varnish",
        &["varnish.vcl"],
        &[&[
            "varnishd",
            "-F",
            "-n",
            "/run/bowline",
            "-a",
            "127.0.0.1:8080",
            "-f",
            "/etc/bowline/varnish.vcl",
            "-s",
            "malloc,32m",
            "-T",
            "none",
            "-j",
            "none",
        ]],
    )
};
const VARNISH_PLAIN: Row = VARNISH.with(NO_UPGRADES, &[("(?i)websocket", "^none$")]);
const SQUID: Row = row(
    "Squid",
    "squid-openssl",
    &["squid.conf"],
    &[&["squid", "-N", "-f", "/etc/bowline/squid.conf"]],
);
const SQUID_OTHER: (&str, &str) = ("http_upgrade_request_protocols OTHER allow all\n", "");
const SQUID_PLAIN: Row = SQUID.with(
    NO_UPGRADES,
    &[SQUID_OTHER, ("http_upgrade_request_protocols websocket allow all\n", "")],
);
const SQUID_WEBSOCKET: Row =
    SQUID.with("`http_upgrade_request_protocols websocket` alone", &[SQUID_OTHER]);
const LIGHTTPD: Row = Row {
    around: &["tls-behind.cfg"],
    ..row(
        "lighttpd",
        "lighttpd",
        &["lighttpd.conf"],
        &[&["lighttpd", "-D", "-f", "/etc/bowline/lighttpd.conf"]],
    )
};
const LIGHTTPD_PLAIN: Row =
    LIGHTTPD.with(NO_UPGRADES, &[("proxy.header = (\"upgrade\" => \"enable\")\n", "")]);
const H2O: Row =
    row("h2o", "h2o", &["h2o.conf"], &[&["h2o", "-m", "worker", "-c", "/etc/bowline/h2o.conf"]]);
const H2O_PLAIN: Row = H2O.with(NO_UPGRADES, &[("        proxy.websocket: ON\n", "")]);
const NGHTTPX: Row = row(
    "nghttpx",
    "nghttp2-proxy",
    &["nghttpx.conf"],
    &[&["nghttpx", "--conf=/etc/bowline/nghttpx.conf"]],
);
const POUND: Row =
    row("Pound", "pound", &["pound.cfg"], &[&["pound", "-f", "/etc/bowline/pound.cfg"]]);
const TRAFFIC_SERVER: Row = row(
    "Traffic Server",
    "trafficserver",
    &[
        "trafficserver/ip_allow.yaml",
        "trafficserver/records.config",
        "trafficserver/remap.config",
        "trafficserver/runroot.yaml",
        "trafficserver/ssl_multicert.config",
        "trafficserver/storage.config",
    ],
    &[&["traffic_server", "--run-root=/etc/bowline/runroot.yaml"]],
);
const TRAFFIC_SERVER_WS: Row = TRAFFIC_SERVER.with(
    "`map wss:` as well",
    &[(
        "map / https://localhost:6443/",
        "map wss://127.0.0.1:8443/ wss://localhost:6443/\nmap / https://localhost:6443/",
    )],
);
const TINYPROXY: Row = Row {
    around: AROUND,
    ..row(
        "tinyproxy",
        "tinyproxy",
        &["tinyproxy.conf"],
        &[&["tinyproxy", "-d", "-c", "/etc/bowline/tinyproxy.conf"]],
    )
};

/// All of them.
pub const ROWS: &[Row] = &[
    NGINX,
    NGINX_PLAIN,
    NGINX_WEBSOCKET,
    NGINX.from(Suite::Sid),
    NGINX_PLAIN.from(Suite::Sid),
    HAPROXY,
    HAPROXY.from(Suite::Sid),
    APACHE,
    APACHE_PLAIN,
    APACHE_WEBSOCKET,
    APACHE_TUNNEL,
    APACHE_H2,
    APACHE.from(Suite::Sid),
    APACHE_PLAIN.from(Suite::Sid),
    APACHE_WEBSOCKET.from(Suite::Sid),
    CADDY,
    CADDY_H2,
    CADDY.from(Suite::Sid),
    CADDY_H2.from(Suite::Sid),
    ENVOY,
    ENVOY_HTTP2,
    ENVOY_PLAIN,
    ENVOY_WEBSOCKET,
    VARNISH,
    VARNISH_PLAIN,
    SQUID,
    SQUID_PLAIN,
    SQUID_WEBSOCKET,
    SQUID.from(Suite::Sid),
    SQUID_PLAIN.from(Suite::Sid),
    SQUID_WEBSOCKET.from(Suite::Sid),
    LIGHTTPD,
    LIGHTTPD_PLAIN,
    LIGHTTPD.from(Suite::Sid),
    LIGHTTPD_PLAIN.from(Suite::Sid),
    H2O,
    H2O_PLAIN,
    NGHTTPX,
    NGHTTPX.from(Suite::Sid),
    POUND.from(Suite::Sid),
    TRAFFIC_SERVER,
    TRAFFIC_SERVER_WS,
    TINYPROXY,
];
