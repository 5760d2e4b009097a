# Ways out of the house that lead nowhere.
master {
  mail {
    relay    = "mail.example.org:smpt"
    from     = "rouse"
    username = "rouse"
    tls      = "opportunistic"
  }
  mail {}
  webhook {
    url    = "https://user:word@example.org/hook"
    secret = "in clear"
  }
}
