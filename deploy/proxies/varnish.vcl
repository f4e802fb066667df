# Varnish in front of `bowline gateway` or of an API server. It speaks no TLS: tls-in-front.cfg
# and tls-behind.cfg do.
vcl 4.1;

backend gateway {
    .host = "127.0.0.1";
    .port = "8081";
    .first_byte_timeout = 4h;
    .between_bytes_timeout = 4h;
}

sub vcl_recv {
    if (req.http.Upgrade ~ "(?i)websocket") {
        return (pipe);
    }
    return (pass);
}

sub vcl_pipe {
    if (req.http.Upgrade) {
        set bereq.http.Upgrade = req.http.Upgrade;
        set bereq.http.Connection = req.http.Connection;
    }
}
